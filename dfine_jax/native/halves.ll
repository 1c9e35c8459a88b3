; Products in 16 bits, see halves.py: what XLA calls, and what one thread does at a time.

; What @product computes, by kernels in pairs; they are followed by one factor for each.
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

; What @chunk.product computes, of maps that are rounded first.
define internal void @chunk.halves(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %here = alloca [MOST x %Map]
  %maps = call i64 @get.maps(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %factors = call ptr @get.factors(ptr %work)
  %sums.size = mul i64 %count, %columns
  %after.sums = getelementptr float, ptr %scratch, i64 %sums.size
  br label %next
next:
  %index = phi i64 [ 0, %entry ], [ %index.next, %next ]
  %scales = phi ptr [ %after.sums, %entry ], [ %scales.next, %next ]
  %map = call ptr @map(ptr %work, i64 %index)
  %base = call ptr @map.base(ptr %map)
  %inputs = call i64 @map.numbers(ptr %map)
  %channels = call i64 @map.pitch(ptr %map)
  %kernel = call ptr @map.kernel(ptr %map)
  %from = mul i64 %first, %channels
  %rows = getelementptr float, ptr %base, i64 %from
  %factor.at = getelementptr float, ptr %factors, i64 %index
  %factor = load float, ptr %factor.at
  %halves = getelementptr float, ptr %scales, i64 %count
  call void @halve(ptr %rows, i64 %inputs, i64 %channels, i64 %count, float %factor, ptr %halves, ptr %scales)
  %pairs = lshr i64 %inputs, 1
  call void @set.map(ptr %here, i64 %index, ptr %halves, i64 %pairs, i64 %pairs, ptr %kernel)
  call void @set.scales(ptr %here, i64 %index, ptr %scales)
  %used = mul i64 %count, %pairs
  %scales.next = getelementptr float, ptr %halves, i64 %used
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
