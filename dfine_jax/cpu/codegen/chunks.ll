; What one thread does at a time; @chunk.norm is in norm.py. @rows is in product.py, @depthwise and @maximum in
; depthwise.py, @spread and @gather in tiles.py.

declare ptr @memcpy(ptr, ptr, i64)
declare ptr @memset(ptr, i32, i64)

; Where sums go before they are finished: to the result itself, unless its rows are shorter than those of panels or it
; is narrow.
define internal ptr @sums(ptr %work, ptr %result, ptr %scratch) {
  %outputs = call i64 @get.outputs(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %is.whole = icmp eq i64 %outputs, %columns
  %narrow = call i64 @get.narrow(ptr %work)
  %is.wide = icmp eq i64 %narrow, 0
  %is.place = and i1 %is.whole, %is.wide
  %sums = select i1 %is.place, ptr %result, ptr %scratch
  ret ptr %sums
}

; So many cells of the result, which begins at the first one's place.
define internal void @cells(ptr %work, ptr %maps, i64 %count, i64 %cells, ptr %result, ptr %scratch) {
  %sums = call ptr @sums(ptr %work, ptr %result, ptr %scratch)
  %columns = call i64 @get.columns(ptr %work)
  %multiply = call ptr @get.multiply(ptr %work)
  call void %multiply(ptr %maps, i64 %count, i64 %cells, ptr %sums, i64 %columns)
  %finish = call ptr @get.finish(ptr %work)
  call void %finish(ptr %work, ptr %sums, ptr %result, i64 %cells)
  ret void
}

define internal void @chunk.product(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %here = alloca [MOST x %Map]
  %maps = call i64 @get.maps(ptr %work)
  br label %next
next:
  %index = phi i64 [ 0, %entry ], [ %index.next, %next ]
  %map = call ptr @map(ptr %work, i64 %index)
  %base = call ptr @map.base(ptr %map)
  %inputs = call i64 @map.numbers(ptr %map)
  %channels = call i64 @map.pitch(ptr %map)
  %kernel = call ptr @map.kernel(ptr %map)
  %from = mul i64 %first, %channels
  %rows = getelementptr float, ptr %base, i64 %from
  call void @set.map(ptr %here, i64 %index, ptr %rows, i64 %inputs, i64 %channels, ptr %kernel)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %maps
  br i1 %is.more, label %next, label %multiply
multiply:
  %outputs = call i64 @get.outputs(ptr %work)
  %to = mul i64 %first, %outputs
  %result = call ptr @get.result(ptr %work)
  %narrow = call i64 @get.narrow(ptr %work)
  %begin = call ptr @place(ptr %result, i64 %narrow, i64 %to)
  SCRATCH.gemm
  call void @cells(ptr %work, ptr %here, i64 %maps, i64 %count, ptr %begin, ptr %sums)
  ret void
}

; So many columns of a row of a map, from one on, of which some may lie beyond its edges: zeros are there.
define internal void @padded(ptr %row, i64 %narrow, i64 %width, i64 %channels, i64 %first, i64 %columns,
                             ptr %to) {
entry:
  %stop = add i64 %first, %columns
  %from.left = call i64 @llvm.smax.i64(i64 %first, i64 0)
  %from = call i64 @llvm.smin.i64(i64 %from.left, i64 %stop)
  %until.right = call i64 @llvm.smin.i64(i64 %stop, i64 %width)
  %until = call i64 @llvm.smax.i64(i64 %until.right, i64 %from)
  %power = sub i64 2, %narrow
  %bytes.each = shl i64 %channels, %power
  %left = sub i64 %from, %first
  %left.bytes = mul i64 %left, %bytes.each
  %taken = sub i64 %until, %from
  %taken.bytes = mul i64 %taken, %bytes.each
  %right = sub i64 %stop, %until
  %right.bytes = mul i64 %right, %bytes.each
  call ptr @memset(ptr %to, i32 0, i64 %left.bytes)
  %middle = getelementptr i8, ptr %to, i64 %left.bytes
  %from.offset = mul i64 %from, %channels
  %source = call ptr @place(ptr %row, i64 %narrow, i64 %from.offset)
  call ptr @memcpy(ptr %middle, ptr %source, i64 %taken.bytes)
  %end = getelementptr i8, ptr %middle, i64 %taken.bytes
  call ptr @memset(ptr %end, i32 0, i64 %right.bytes)
  ret void
}

; Some cells of a row of the result, whose kernel begins so many rows down the picture. In a row of a map, what a row of
; the kernel covers lies together: one row of a product. It is read where it is unless some of it is padding.
define internal void @strip(ptr %work, i64 %picture, i64 %top, i64 %from, i64 %until, i1 %is.padded, ptr %zeros,
                            ptr %edges, ptr %to, ptr %scratch) {
entry:
  %here = alloca [TAPS x %Map]
  %maps = call i64 @get.maps(ptr %work)
  %taps = call i64 @get.taps(ptr %work)
  %stride = call i64 @get.stride(ptr %work)
  %low = call i64 @get.low(ptr %work)
  %height = call i64 @get.height(ptr %work)
  %width = call i64 @get.width(ptr %work)
  %deep = call i64 @get.deep(ptr %work)
  %outputs = call i64 @get.outputs(ptr %work)
  %products = mul i64 %maps, %taps
  %cells = sub i64 %until, %from
  %is.any = icmp sgt i64 %cells, 0
  %from.strided = mul i64 %from, %stride
  %first = sub i64 %from.strided, %low
  %cells.less = sub i64 %cells, 1
  %last = mul i64 %cells.less, %stride
  %columns = add i64 %last, %taps
  %picture.row = mul i64 %picture, %height
  br i1 %is.any, label %tap, label %done
tap:
  %product = phi i64 [ 0, %entry ], [ %product.next, %tap.end ]
  %memory = phi ptr [ %edges, %entry ], [ %memory.next, %tap.end ]
  %which = sdiv i64 %product, %taps
  %tap.index = srem i64 %product, %taps
  %source = call ptr @map(ptr %work, i64 %which)
  %base = call ptr @map.base(ptr %source)
  %channels = call i64 @map.numbers(ptr %source)
  %kernel = call ptr @map.kernel(ptr %source)
  %narrow = call i64 @map.narrow(ptr %source)
  %row = add i64 %top, %tap.index
  %is.there = icmp ult i64 %row, %height
  %row.all = add i64 %picture.row, %row
  %row.size = mul i64 %width, %channels
  %row.offset = mul i64 %row.all, %row.size
  %row.from = call ptr @place(ptr %base, i64 %narrow, i64 %row.offset)
  %size = mul i64 %columns, %channels
  br i1 %is.there, label %there, label %outside
there:
  br i1 %is.padded, label %edge, label %inside
edge:
  call void @padded(ptr %row.from, i64 %narrow, i64 %width, i64 %channels, i64 %first, i64 %columns, ptr %memory)
  %memory.used = getelementptr float, ptr %memory, i64 %size
  br label %tap.end
inside:
  %first.offset = mul i64 %first, %channels
  %direct = call ptr @place(ptr %row.from, i64 %narrow, i64 %first.offset)
  br label %tap.end
outside:
  br label %tap.end
tap.end:
  %begin = phi ptr [ %memory, %edge ], [ %direct, %inside ], [ %zeros, %outside ]
  %memory.next = phi ptr [ %memory.used, %edge ], [ %memory, %inside ], [ %memory, %outside ]
  %numbers = mul i64 %channels, %taps
  %pitch = mul i64 %channels, %stride
  %kernel.size = mul i64 %numbers, %deep
  %kernel.offset = mul i64 %tap.index, %kernel.size
  %tap.kernel = getelementptr float, ptr %kernel, i64 %kernel.offset
  call void @set.map(ptr %here, i64 %product, ptr %begin, i64 %numbers, i64 %pitch, ptr %tap.kernel)
  %product.next = add i64 %product, 1
  %is.tap = icmp slt i64 %product.next, %products
  br i1 %is.tap, label %tap, label %multiply
multiply:
  %to.offset = mul i64 %from, %outputs
  %result.narrow = call i64 @get.narrow(ptr %work)
  %to.first = call ptr @place(ptr %to, i64 %result.narrow, i64 %to.offset)
  call void @cells(ptr %work, ptr %here, i64 %products, i64 %cells, ptr %to.first, ptr %scratch)
  br label %done
done:
  ret void
}

; Some rows of the result: what is next to the left edge, what is far from edges, and what is next to the right one.
define internal void @chunk.rows(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %taps = call i64 @get.taps(ptr %work)
  %stride = call i64 @get.stride(ptr %work)
  %low = call i64 @get.low(ptr %work)
  %width = call i64 @get.width(ptr %work)
  %high = call i64 @get.high(ptr %work)
  %wide = call i64 @get.wide(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %outputs = call i64 @get.outputs(ptr %work)
  %zero_count = call i64 @get.zeros(ptr %work)
  SCRATCH.rows
  %zeros.bytes = mul i64 %zero_count, 4
  call ptr @memset(ptr %zeros, i32 0, i64 %zeros.bytes)
  %stride.less = sub i64 %stride, 1
  %low.up = add i64 %low, %stride.less
  %left.cells = sdiv i64 %low.up, %stride
  %left = call i64 @llvm.smin.i64(i64 %left.cells, i64 %wide)
  %width.low = add i64 %width, %low
  %room = sub i64 %width.low, %taps
  %room.up = add i64 %room, %stride
  %whole.cells = sdiv i64 %room.up, %stride
  %whole = call i64 @llvm.smin.i64(i64 %whole.cells, i64 %wide)
  %right = call i64 @llvm.smax.i64(i64 %whole, i64 %left)
  %above = mul i64 %picture, %high
  %result.row = add i64 %above, %first
  %row.size = mul i64 %wide, %outputs
  %result.offset = mul i64 %result.row, %row.size
  %result = call ptr @get.result(ptr %work)
  %narrow = call i64 @get.narrow(ptr %work)
  %result.begin = call ptr @place(ptr %result, i64 %narrow, i64 %result.offset)
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %row ]
  %which = add i64 %first, %index
  %which.strided = mul i64 %which, %stride
  %top = sub i64 %which.strided, %low
  %to.offset = mul i64 %index, %row.size
  %to = call ptr @place(ptr %result.begin, i64 %narrow, i64 %to.offset)
  call void @strip(ptr %work, i64 %picture, i64 %top, i64 0, i64 %left, i1 true, ptr %zeros, ptr %edges, ptr %to,
                   ptr %sums)
  call void @strip(ptr %work, i64 %picture, i64 %top, i64 %left, i64 %right, i1 false, ptr %zeros, ptr %edges, ptr %to,
                   ptr %sums)
  call void @strip(ptr %work, i64 %picture, i64 %top, i64 %right, i64 %wide, i1 true, ptr %zeros, ptr %edges, ptr %to,
                   ptr %sums)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %count
  br i1 %is.more, label %row, label %done
done:
  ret void
}

; Some tiles: they are transformed, multiplied by each kernel, and transformed back.
define internal void @chunk.tiles(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %here = alloca %Map
  %map = call ptr @map(ptr %work, i64 0)
  %channels = call i64 @map.numbers(ptr %map)
  %kernel = call ptr @map.kernel(ptr %map)
  %outputs = call i64 @get.outputs(ptr %work)
  %halved = call i64 @get.halved(ptr %work)
  %numbers = lshr i64 %channels, %halved
  %inputs.each = mul i64 %count, %numbers
  %products.each = mul i64 %count, %outputs
  %kernel.each = mul i64 %numbers, %outputs
  SCRATCH.tiles
  %spread = call ptr @get.spread(ptr %work)
  %product = call ptr @get.multiply(ptr %work)
  call void %spread(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %inputs, ptr %scales, ptr %outside)
  br label %multiply
multiply:
  %entry.index = phi i64 [ 0, %entry ], [ %entry.next, %multiply ]
  %input.offset = mul i64 %entry.index, %inputs.each
  %input = getelementptr float, ptr %inputs, i64 %input.offset
  %kernel.offset = mul i64 %entry.index, %kernel.each
  %kernel.one = getelementptr float, ptr %kernel, i64 %kernel.offset
  %product.offset = mul i64 %entry.index, %products.each
  %product.one = getelementptr float, ptr %products, i64 %product.offset
  call void @set.map(ptr %here, i64 0, ptr %input, i64 %numbers, i64 %numbers, ptr %kernel.one)
  call void @set.scales(ptr %here, i64 0, ptr %scales)
  call void @set.window(ptr %here, i64 0, i64 PAIRS.OF.TILES, i64 0)
  call void %product(ptr %here, i64 1, i64 %count, ptr %product.one, i64 %outputs)
  %entry.next = add i64 %entry.index, 1
  %is.more = icmp slt i64 %entry.next, 36
  br i1 %is.more, label %multiply, label %end
end:
  call void @gather(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %products, ptr %outside)
  ret void
}
