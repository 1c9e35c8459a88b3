; Products in 16 bits, see halves.py: what XLA calls, and what one thread does at a time.

; What @product computes, of maps' channels put together, by one kernel in pairs, which comes as often as there are maps
; and is followed by a factor.
define internal void @product.of.halves(ptr %frame, ptr %finish) {
  %work = call ptr @work(ptr %frame, ptr @chunk.halves, ptr %finish)
  call void @set.halves(ptr %frame, ptr %work)
  call void @share.cells(ptr %frame, ptr %work)
  ret void
}

define internal void @set.halves(ptr %frame, ptr %work) {
  %maps = call i64 @get.maps(ptr %work)
  %factors.index = mul i64 %maps, 2
  %factors = call ptr @data(ptr %frame, i32 0, i64 %factors.index)
  call void @set.factors(ptr %work, ptr %factors)
  call void @set.multiply(ptr %work, ptr @rows.of.halves)
  call void @set.halved(ptr %work, i64 1)
  ret void
}

; What @tiles.of.maps computes, by kernels in pairs, which are followed by a factor.
define internal void @tiles.of.halves(ptr %frame, ptr %finish) {
  %work = call ptr @work.on.pictures(ptr %frame, ptr @chunk.tiles, ptr %finish)
  call void @set.spread(ptr %work, ptr @spread.of.halves)
  call void @set.halves(ptr %frame, ptr %work)
  call void @share.tiles(ptr %frame, ptr %work)
  ret void
}

; What @chunk.product computes, of maps that are rounded first, next to each other.
define internal void @chunk.halves(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %here = alloca [MOST x %Map]
  %maps = call i64 @get.maps(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %factors = call ptr @get.factors(ptr %work)
  %factor = load float, ptr %factors
  %first.map = call ptr @map(ptr %work, i64 0)
  %kernel = call ptr @map.kernel(ptr %first.map)
  SCRATCH.gemm16
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %map ]
  %so.far = phi i64 [ 0, %entry ], [ %inputs, %map ]
  %map.at = call ptr @map(ptr %work, i64 %index)
  %base = call ptr @map.base(ptr %map.at)
  %numbers = call i64 @map.numbers(ptr %map.at)
  %pitch = call i64 @map.pitch(ptr %map.at)
  %offset = mul i64 %first, %pitch
  %narrow = call i64 @map.narrow(ptr %map.at)
  %from = call ptr @place(ptr %base, i64 %narrow, i64 %offset)
  call void @set.map(ptr %here, i64 %index, ptr %from, i64 %numbers, i64 %pitch, ptr %kernel)
  call void @set.narrow.map(ptr %here, i64 %index, i64 %narrow)
  %inputs = add i64 %so.far, %numbers
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %maps
  br i1 %is.more, label %map, label %multiply
multiply:
  call void @rounded.cells(ptr %here, i64 %maps, i64 %count, float %factor, ptr %rounded, i64 %inputs, ptr %scales)
  %pairs = lshr i64 %inputs, 1
  call void @set.map(ptr %here, i64 0, ptr %rounded, i64 %pairs, i64 %pairs, ptr %kernel)
  call void @set.scales(ptr %here, i64 0, ptr %scales)
  call void @set.window(ptr %here, i64 0, i64 PAIRS, i64 0)
  %outputs = call i64 @get.outputs(ptr %work)
  %result.offset = mul i64 %first, %outputs
  %result = call ptr @get.result(ptr %work)
  %result.narrow = call i64 @get.narrow(ptr %work)
  %begin = call ptr @place(ptr %result, i64 %result.narrow, i64 %result.offset)
  call void @cells(ptr %work, ptr %here, i64 1, i64 %count, ptr %begin, ptr %sums)
  ret void
}

; What @rows.of.maps computes, by kernels in pairs, with a zero after each odd row; they are followed by one factor for
; each. Of the first maps, as many as an attribute says, the largest of each four cells count; another attribute says that
; a kernel is of two cells of a row.
define internal void @windows.of.halves(ptr %frame, ptr %finish) {
  %work = call ptr @work.on.pictures(ptr %frame, ptr @chunk.windows, ptr %finish)
  call void @set.halves(ptr %frame, ptr %work)
  call void @set.multiply(ptr %work, ptr @rows.of.windows)
  %tops = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.work.tops)
  call void @set.tops(ptr %work, i64 %tops)
  %twice = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.work.twice)
  call void @set.twice(ptr %work, i64 %twice)
  call void @share.rows(ptr %frame, ptr %work)
  ret void
}

; What @chunk.rows computes. The rows of maps that it takes are rounded first, and padded: windows are all alike then.
define internal void @chunk.windows(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %here = alloca [MOST x %Map]
  %maps = call i64 @get.maps(ptr %work)
  %taps = call i64 @get.taps(ptr %work)
  %stride = call i64 @get.stride(ptr %work)
  %low = call i64 @get.low(ptr %work)
  %height = call i64 @get.height(ptr %work)
  %width = call i64 @get.width(ptr %work)
  %high = call i64 @get.high(ptr %work)
  %wide = call i64 @get.wide(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %outputs = call i64 @get.outputs(ptr %work)
  %factors = call ptr @get.factors(ptr %work)
  %top.strided = mul i64 %first, %stride
  %top = sub i64 %top.strided, %low
  %count.less = sub i64 %count, 1
  %count.strided = mul i64 %count.less, %stride
  %rows = add i64 %count.strided, %taps
  %bottom = add i64 %top, %rows
  %from = call i64 @llvm.smax.i64(i64 %top, i64 0)
  %outside = sub i64 %from, %top
  %tops = call i64 @get.tops(ptr %work)
  %wide.less = sub i64 %wide, 1
  %twice = call i64 @get.twice(ptr %work)
  %step = add i64 %stride, %twice
  %span = add i64 %taps, %twice
  %wide.strided = mul i64 %wide.less, %step
  %reached = add i64 %wide.strided, %span
  %width.low = add i64 %width, %low
  %across = call i64 @llvm.smax.i64(i64 %reached, i64 %width.low)
  %above.picture = mul i64 %picture, %height
  %from.row = add i64 %above.picture, %from
  SCRATCH.rows16
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %rounded.map ]
  %memory = phi ptr [ %first.map.memory, %entry ], [ %next.map, %rounded.map ]
  %map.at = call ptr @map(ptr %work, i64 %index)
  %base = call ptr @map.base(ptr %map.at)
  %channels = call i64 @map.numbers(ptr %map.at)
  %kernel = call ptr @map.kernel(ptr %map.at)
  %factor.at = getelementptr float, ptr %factors, i64 %index
  %factor = load float, ptr %factor.at
  %is.top = icmp slt i64 %index, %tops
  %below = zext i1 %is.top to i64  ; rows more
  %all_rows = add i64 %rows, %below
  %bottom.below = add i64 %bottom, %below
  %until = call i64 @llvm.smin.i64(i64 %bottom.below, i64 %height)
  %inside = sub i64 %until, %from
  %row.size = mul i64 %width, %channels
  %offset = mul i64 %from.row, %row.size
  %narrow = call i64 @map.narrow(ptr %map.at)
  %source = call ptr @place(ptr %base, i64 %narrow, i64 %offset)
  %tap = mul i64 %span, %channels
  %is.odd = and i64 %tap, 1
  %run.halves = add i64 %tap, %is.odd
  %run = lshr i64 %run.halves, 1
  %across.map = add i64 %across, %below
  %across.halves = mul i64 %across.map, %channels
  %across.odd = add i64 %across.halves, %is.odd  ; which the last window of a row meets, times zero
  %across.up = add i64 %across.odd, 1
  %down.halves = and i64 %across.up, -2
  %down = lshr i64 %down.halves, 1
  SCRATCH.map16.FROM.memory
  %left = mul i64 %low, %channels
  %right.begin = add i64 %left, %row.size
  %above = mul i64 %outside, %down.halves
  %inside.begin = add i64 %above, %left
  %inside.at = getelementptr half, ptr %rounded, i64 %inside.begin
  %here.at = getelementptr %Map, ptr %here, i64 %index
  call void @set.map(ptr %here, i64 %index, ptr %source, i64 %row.size, i64 %row.size, ptr %kernel)
  call void @set.narrow.map(ptr %here, i64 %index, i64 %narrow)
  %scale = call float @rounded(ptr %here.at, i64 1, i64 %inside, float %factor, ptr %inside.at, i64 %down.halves)
  call void @fill(ptr %scales, i64 %wide, float %scale)
  call void @pad(ptr %rounded, i64 %all_rows, i64 %outside, i64 %inside, i64 %left, i64 %right.begin, i64 %down.halves)
  br i1 %is.top, label %top.map, label %rounded.map
top.map:
  %bottom.top = call i64 @llvm.smin.i64(i64 %bottom, i64 %height)
  %inside.top = sub i64 %bottom.top, %from
  call void @largest.of.four(ptr %inside.at, i64 %inside.top, i64 %row.size, i64 %channels, i64 %down.halves)
  br label %rounded.map
rounded.map:
  %summed = mul i64 %taps, %run
  %pitch.halves = mul i64 %step, %channels
  %pitch = lshr i64 %pitch.halves, 1
  call void @set.map(ptr %here, i64 %index, ptr %rounded, i64 %summed, i64 %pitch, ptr %kernel)
  call void @set.scales(ptr %here, i64 %index, ptr %scales)
  call void @set.window(ptr %here, i64 %index, i64 %run, i64 %down)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %maps
  br i1 %is.more, label %map, label %result
result:
  %above.result = mul i64 %picture, %high
  %result.row = add i64 %above.result, %first
  %result.size = mul i64 %wide, %outputs
  %result.offset = mul i64 %result.row, %result.size
  %result.first = call ptr @get.result(ptr %work)
  %result.narrow = call i64 @get.narrow(ptr %work)
  %begin = call ptr @place(ptr %result.first, i64 %result.narrow, i64 %result.offset)
  br label %row
row:
  %row.index = phi i64 [ 0, %result ], [ %row.next, %row ]
  %to = phi ptr [ %begin, %result ], [ %to.next, %row ]
  call void @cells(ptr %work, ptr %here, i64 %maps, i64 %wide, ptr %to, ptr %sums)
  call void @move.down(ptr %here, i64 %maps, i64 %stride)
  %to.next = call ptr @place(ptr %to, i64 %result.narrow, i64 %result.size)
  %row.next = add i64 %row.index, 1
  %is.row = icmp slt i64 %row.next, %count
  br i1 %is.row, label %row, label %done
done:
  ret void
}

; Zeros around a map that is rounded: rows outside of it, and what is left and right in others.
define internal void @pad(ptr %to, i64 %rows, i64 %outside, i64 %inside, i64 %left, i64 %right.begin, i64 %down) {
entry:
  %left.bytes = mul i64 %left, 2
  %all.bytes = mul i64 %down, 2
  %right = sub i64 %down, %right.begin
  %right.bytes = mul i64 %right, 2
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %row.end ]
  %to.row = phi ptr [ %to, %entry ], [ %to.next, %row.end ]
  %place = sub i64 %index, %outside
  %is.inside = icmp ult i64 %place, %inside
  br i1 %is.inside, label %some, label %none
some:
  %end = getelementptr half, ptr %to.row, i64 %right.begin
  call ptr @memset(ptr %to.row, i32 0, i64 %left.bytes)
  call ptr @memset(ptr %end, i32 0, i64 %right.bytes)
  br label %row.end
none:
  call ptr @memset(ptr %to.row, i32 0, i64 %all.bytes)
  br label %row.end
row.end:
  %to.next = getelementptr half, ptr %to.row, i64 %down
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %rows
  br i1 %is.more, label %row, label %done
done:
  ret void
}

define internal void @fill(ptr %to, i64 %count, float %value) {
entry:
  br label %next
next:
  %index = phi i64 [ 0, %entry ], [ %index.next, %next ]
  %at = getelementptr float, ptr %to, i64 %index
  store float %value, ptr %at
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %count
  br i1 %is.more, label %next, label %done
done:
  ret void
}

; Windows of maps begin so many rows further down.
define internal void @move.down(ptr %maps, i64 %count, i64 %rows) {
entry:
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %map ]
  %map.at = getelementptr %Map, ptr %maps, i64 %index
  %base = call ptr @map.base(ptr %map.at)
  %down = call i64 @map.down(ptr %map.at)
  %offset = mul i64 %down, %rows
  %base.next = getelementptr float, ptr %base, i64 %offset
  store ptr %base.next, ptr %map.at
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %count
  br i1 %is.more, label %map, label %done
done:
  ret void
}
