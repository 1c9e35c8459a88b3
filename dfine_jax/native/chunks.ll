; What one thread does at a time; @chunk.norm is in norm.py. @rows is in product.py, @depthwise and @maximum in
; depthwise.py, @spread and @gather in tiles.py.

declare ptr @memcpy(ptr, ptr, i64)
declare ptr @memset(ptr, i32, i64)

; Where sums go before they are finished: to the result itself, unless its rows are shorter than those of panels.
define internal ptr @sums(ptr %work, ptr %result, ptr %scratch) {
  %outputs = call i64 @get.outputs(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %is.whole = icmp eq i64 %outputs, %columns
  %sums = select i1 %is.whole, ptr %result, ptr %scratch
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
  %begin = getelementptr float, ptr %result, i64 %to
  call void @cells(ptr %work, ptr %here, i64 %maps, i64 %count, ptr %begin, ptr %scratch)
  ret void
}

; Rows of a map with their padding, of so many numbers each, from one on, which may be in the padding itself.
define internal void @padded(ptr %work, i64 %picture, i64 %first, i64 %rows, i64 %channels, ptr %base, i64 %size, ptr %to) {
entry:
  %height = call i64 @get.height(ptr %work)
  %width = call i64 @get.width(ptr %work)
  %low = call i64 @get.low(ptr %work)
  %left = mul i64 %low, %channels
  %left.bytes = mul i64 %left, 4
  %all = mul i64 %width, %channels
  %room = sub i64 %size, %left
  %taken = call i64 @llvm.smin.i64(i64 %all, i64 %room)
  %taken.bytes = mul i64 %taken, 4
  %right = sub i64 %room, %taken
  %right.bytes = mul i64 %right, 4
  %bytes = mul i64 %size, 4
  %above = mul i64 %picture, %height
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %next ]
  %which = add i64 %first, %index
  %begin.offset = mul i64 %index, %size
  %begin = getelementptr float, ptr %to, i64 %begin.offset
  %is.there = icmp ult i64 %which, %height
  br i1 %is.there, label %there, label %outside
outside:
  call ptr @memset(ptr %begin, i32 0, i64 %bytes)
  br label %next
there:
  call ptr @memset(ptr %begin, i32 0, i64 %left.bytes)
  %middle = getelementptr float, ptr %begin, i64 %left
  %from.row = add i64 %above, %which
  %from.offset = mul i64 %from.row, %all
  %from = getelementptr float, ptr %base, i64 %from.offset
  call ptr @memcpy(ptr %middle, ptr %from, i64 %taken.bytes)
  %end = getelementptr float, ptr %middle, i64 %taken
  call ptr @memset(ptr %end, i32 0, i64 %right.bytes)
  br label %next
next:
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %rows
  br i1 %is.more, label %row, label %done
done:
  ret void
}

; Some rows of the result. In a row of a map, what a row of the kernel covers lies together: one row of a product.
define internal void @chunk.rows(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %padded = alloca [MOST x %Map]
  %here = alloca [TAPS x %Map]
  %maps = call i64 @get.maps(ptr %work)
  %taps = call i64 @get.taps(ptr %work)
  %stride = call i64 @get.stride(ptr %work)
  %low = call i64 @get.low(ptr %work)
  %wide = call i64 @get.wide(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %deep = call i64 @get.deep(ptr %work)
  %sums.size = mul i64 %wide, %columns
  %memory = getelementptr float, ptr %scratch, i64 %sums.size
  %first.strided = mul i64 %first, %stride
  %first.row = sub i64 %first.strided, %low
  %count.less = sub i64 %count, 1
  %last.row = mul i64 %count.less, %stride
  %rows = add i64 %last.row, %taps
  %wide.less = sub i64 %wide, 1
  %last.cell = mul i64 %wide.less, %stride
  %cells = add i64 %last.cell, %taps
  br label %pad
pad:
  %index = phi i64 [ 0, %entry ], [ %index.next, %pad ]
  %to = phi ptr [ %memory, %entry ], [ %to.next, %pad ]
  %map = call ptr @map(ptr %work, i64 %index)
  %base = call ptr @map.base(ptr %map)
  %channels = call i64 @map.numbers(ptr %map)
  %kernel = call ptr @map.kernel(ptr %map)
  %size = mul i64 %cells, %channels
  call void @padded(ptr %work, i64 %picture, i64 %first.row, i64 %rows, i64 %channels, ptr %base, i64 %size, ptr %to)
  call void @set.map(ptr %padded, i64 %index, ptr %to, i64 %channels, i64 %size, ptr %kernel)
  %used = mul i64 %rows, %size
  %to.next = getelementptr float, ptr %to, i64 %used
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %maps
  br i1 %is.another, label %pad, label %begin
begin:
  %picture.rows = call i64 @get.high(ptr %work)
  %above = mul i64 %picture, %picture.rows
  %result.row = add i64 %above, %first
  %outputs = call i64 @get.outputs(ptr %work)
  %row.size = mul i64 %wide, %outputs
  %result.offset = mul i64 %result.row, %row.size
  %result = call ptr @get.result(ptr %work)
  %result.begin = getelementptr float, ptr %result, i64 %result.offset
  %products = mul i64 %maps, %taps
  br label %row
row:
  %row.index = phi i64 [ 0, %begin ], [ %row.next, %multiply ]
  %top = mul i64 %row.index, %stride
  br label %tap
tap:
  %product = phi i64 [ 0, %row ], [ %product.next, %tap ]
  %which = sdiv i64 %product, %taps
  %tap.index = srem i64 %product, %taps
  %source = getelementptr %Map, ptr %padded, i64 %which
  %source.base = call ptr @map.base(ptr %source)
  %source.channels = call i64 @map.numbers(ptr %source)
  %source.size = call i64 @map.pitch(ptr %source)
  %source.kernel = call ptr @map.kernel(ptr %source)
  %source.row = add i64 %top, %tap.index
  %source.offset = mul i64 %source.row, %source.size
  %tap.base = getelementptr float, ptr %source.base, i64 %source.offset
  %numbers = mul i64 %source.channels, %taps
  %pitch = mul i64 %source.channels, %stride
  %kernel.size = mul i64 %numbers, %deep
  %kernel.offset = mul i64 %tap.index, %kernel.size
  %tap.kernel = getelementptr float, ptr %source.kernel, i64 %kernel.offset
  call void @set.map(ptr %here, i64 %product, ptr %tap.base, i64 %numbers, i64 %pitch, ptr %tap.kernel)
  %product.next = add i64 %product, 1
  %is.tap = icmp slt i64 %product.next, %products
  br i1 %is.tap, label %tap, label %multiply
multiply:
  %to.offset = mul i64 %row.index, %row.size
  %to.row = getelementptr float, ptr %result.begin, i64 %to.offset
  call void @cells(ptr %work, ptr %here, i64 %products, i64 %wide, ptr %to.row, ptr %scratch)
  %row.next = add i64 %row.index, 1
  %is.row = icmp slt i64 %row.next, %count
  br i1 %is.row, label %row, label %done
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
  %inputs.each = mul i64 %count, %channels
  %inputs.size = mul i64 %inputs.each, 36
  %products.each = mul i64 %count, %outputs
  %products.size = mul i64 %products.each, 36
  %kernel.each = mul i64 %channels, %outputs
  %products = getelementptr float, ptr %scratch, i64 %inputs.size
  %outside = getelementptr float, ptr %products, i64 %products.size
  call void @spread(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch, ptr %outside)
  br label %multiply
multiply:
  %entry.index = phi i64 [ 0, %entry ], [ %entry.next, %multiply ]
  %input.offset = mul i64 %entry.index, %inputs.each
  %input = getelementptr float, ptr %scratch, i64 %input.offset
  %kernel.offset = mul i64 %entry.index, %kernel.each
  %kernel.one = getelementptr float, ptr %kernel, i64 %kernel.offset
  %product.offset = mul i64 %entry.index, %products.each
  %product.one = getelementptr float, ptr %products, i64 %product.offset
  call void @set.map(ptr %here, i64 0, ptr %input, i64 %channels, i64 %channels, ptr %kernel.one)
  call void @rows(ptr %here, i64 1, i64 %count, ptr %product.one, i64 %outputs)
  %entry.next = add i64 %entry.index, 1
  %is.more = icmp slt i64 %entry.next, 36
  br i1 %is.more, label %multiply, label %end
end:
  call void @gather(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %products, ptr %outside)
  ret void
}
