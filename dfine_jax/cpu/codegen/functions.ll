; Each function that XLA calls, by what it makes of its arguments. See handler.ll.

; Of maps (..., channels in) and kernels in panels to (..., channels out). Where a kernel has fewer inputs than its map
; has channels, the last of them count; it has more where it is of several maps.
define internal void @product(ptr %frame, ptr %finish) {
  %work = call ptr @work(ptr %frame, ptr @chunk.product, ptr %finish)
  call void @share.cells(ptr %frame, ptr %work)
  ret void
}

define internal void @share.cells(ptr %frame, ptr %work) {
entry:
  %rows = call i64 @cells.in.all(ptr %frame)
  %wide = call i64 @from.last(ptr %frame, i32 1, i64 0, i64 2)
  call void @set.wide(ptr %work, i64 %wide)
  %maps = call i64 @get.maps(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %map ]
  %map.at = call ptr @map(ptr %work, i64 %index)
  %base = call ptr @map.base(ptr %map.at)
  %channels = call i64 @map.pitch(ptr %map.at)
  %kernel = call ptr @map.kernel(ptr %map.at)
  %kernel.index = add i64 %maps, %index
  %kernel.size = call i64 @dimension(ptr %frame, i32 0, i64 %kernel.index, i64 1)
  %kernel.inputs = sdiv i64 %kernel.size, %columns
  %inputs = call i64 @llvm.smin.i64(i64 %kernel.inputs, i64 %channels)
  %left.out = sub i64 %channels, %inputs
  %narrow = call i64 @map.narrow(ptr %map.at)
  %from = call ptr @place(ptr %base, i64 %narrow, i64 %left.out)
  call void @set.map(ptr %map.at, i64 0, ptr %from, i64 %inputs, i64 %channels, ptr %kernel)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %maps
  br i1 %is.more, label %map, label %share
share:
  call void @share(ptr %frame, ptr %work, i64 1, i64 %rows)
  ret void
}

; Of maps (pictures, height, width, channels in) to (pictures, height, width, channels out).
define internal ptr @work.on.pictures(ptr %frame, ptr %chunk, ptr %finish) {
  %work = call ptr @work(ptr %frame, ptr %chunk, ptr %finish)
  %height = call i64 @dimension(ptr %frame, i32 0, i64 0, i64 1)
  %width = call i64 @dimension(ptr %frame, i32 0, i64 0, i64 2)
  %high = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 1)
  %wide = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 2)
  %low = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.work.low)
  %stride = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.work.stride)
  call void @set.height(ptr %work, i64 %height)
  call void @set.width(ptr %work, i64 %width)
  call void @set.high(ptr %work, i64 %high)
  call void @set.wide(ptr %work, i64 %wide)
  call void @set.low(ptr %work, i64 %low)
  call void @set.stride(ptr %work, i64 %stride)
  ret ptr %work
}

; By kernels (rows of the kernel, a row's columns one after another in panels).
define internal void @rows.of.maps(ptr %frame, ptr %finish) {
  %work = call ptr @work.on.pictures(ptr %frame, ptr @chunk.rows, ptr %finish)
  call void @share.rows(ptr %frame, ptr %work)
  ret void
}

; By one number a channel for each row and column of the kernel (rows of the kernel, columns times channels).
define internal void @rows.of.channels(ptr %frame, ptr %finish) {
  call void @channel.by.channel(ptr %frame, ptr %finish, ptr @depthwise)
  ret void
}

; The largest in each window (of kernels only the number of rows matters).
define internal void @maximum.of.channels(ptr %frame, ptr %finish) {
  call void @channel.by.channel(ptr %frame, ptr %finish, ptr @maximum)
  ret void
}

define internal void @channel.by.channel(ptr %frame, ptr %finish, ptr %multiply) {
  %work = call ptr @work.on.pictures(ptr %frame, ptr @chunk.rows, ptr %finish)
  %outputs = call i64 @get.outputs(ptr %work)
  call void @set.columns(ptr %work, i64 %outputs)
  call void @set.multiply(ptr %work, ptr %multiply)
  call void @set.deep(ptr %work, i64 1)
  call void @share.rows(ptr %frame, ptr %work)
  ret void
}

; Each row of a map by itself, by a scale and a bias; what is added to variances comes as the affine's scale would.
define internal void @norm.of.rows(ptr %frame, ptr %finish) {
  %work = call ptr @work(ptr %frame, ptr @chunk.norm, ptr %finish)
  %rows = call i64 @cells.in.all(ptr %frame)
  call void @share(ptr %frame, ptr %work, i64 1, i64 %rows)
  ret void
}

; Of queries, keys and values (pictures, tokens, channels); of kernels only the number of rows matters, the heads'. By
; what scores are multiplied comes as the affine's scale would.
define internal void @heads.of.maps(ptr %frame, ptr %finish) {
  %work = call ptr @work(ptr %frame, ptr @chunk.attention, ptr %finish)
  %maps = call i64 @get.maps(ptr %work)
  %heads = call i64 @dimension(ptr %frame, i32 0, i64 %maps, i64 0)
  %pictures = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 0)
  %tokens = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 1)
  call void @set.high(ptr %work, i64 %tokens)
  call void @share(ptr %frame, ptr %work, i64 %pictures, i64 %heads)
  ret void
}

; Of offsets, scores and boxes (pictures, queries, ...) and cells (pictures, cells, channels); the first kernel is the
; table of points.
define internal void @points.of.maps(ptr %frame, ptr %finish) {
  %work = call ptr @work(ptr %frame, ptr @chunk.sampling, ptr %finish)
  %maps = call i64 @get.maps(ptr %work)
  %points = call i64 @dimension(ptr %frame, i32 0, i64 %maps, i64 1)
  %cells = call i64 @dimension(ptr %frame, i32 0, i64 3, i64 1)
  %pictures = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 0)
  %queries = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 1)
  call void @set.taps(ptr %work, i64 %points)
  call void @set.height(ptr %work, i64 %cells)
  call void @share(ptr %frame, ptr %work, i64 %pictures, i64 %queries)
  ret void
}

define internal void @share.rows(ptr %frame, ptr %work) {
entry:
  %maps = call i64 @get.maps(ptr %work)
  %taps = call i64 @dimension(ptr %frame, i32 0, i64 %maps, i64 0)
  call void @set.taps(ptr %work, i64 %taps)
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %map ]
  %widest = phi i64 [ 0, %entry ], [ %widest.next, %map ]
  %map.at = call ptr @map(ptr %work, i64 %index)
  %channels = call i64 @map.numbers(ptr %map.at)
  %widest.next = call i64 @llvm.smax.i64(i64 %widest, i64 %channels)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %maps
  br i1 %is.more, label %map, label %share
share:
  ; A row beyond the map is as many zeros as the windows of a row of the result cover.
  %wide = call i64 @get.wide(ptr %work)
  %stride = call i64 @get.stride(ptr %work)
  %wide.less = sub i64 %wide, 1
  %last = mul i64 %wide.less, %stride
  %covered = add i64 %last, %taps
  %zeros = mul i64 %covered, %widest.next
  call void @set.zeros(ptr %work, i64 %zeros)
  %pictures = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 0)
  %high = call i64 @get.high(ptr %work)
  call void @share(ptr %frame, ptr %work, i64 %pictures, i64 %high)
  ret void
}

; By 36 kernels in panels, for tiles of 4x4 outputs.
define internal void @tiles.of.maps(ptr %frame, ptr %finish) {
  %work = call ptr @work.on.pictures(ptr %frame, ptr @chunk.tiles, ptr %finish)
  call void @set.spread(ptr %work, ptr @spread)
  call void @share.tiles(ptr %frame, ptr %work)
  ret void
}

define internal void @share.tiles(ptr %frame, ptr %work) {
  %pictures = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 0)
  %high = call i64 @get.high(ptr %work)
  %wide = call i64 @get.wide(ptr %work)
  %high.up = add i64 %high, 3
  %wide.up = add i64 %wide, 3
  %above = sdiv i64 %high.up, 4
  %beside = sdiv i64 %wide.up, 4
  %tiles = mul i64 %above, %beside
  call void @share(ptr %frame, ptr %work, i64 %pictures, i64 %tiles)
  ret void
}
