; Beside products of whole numbers: tiles of them, and what takes maps in float16.

; What @tiles.of.maps computes, by kernels of whole numbers, with a factor for each of a tile's 36 entries.
define internal void @tiles.of.wholes(ptr %frame, ptr %finish) {
  %work = call ptr @work.on.pictures(ptr %frame, ptr @chunk.tiles.of.wholes, ptr %finish)
  %narrow = call i64 @narrow(ptr %frame, i32 0, i64 0)
  %is.narrow = icmp ne i64 %narrow, 0
  %spread = select i1 %is.narrow, ptr @spread.narrow, ptr @spread
  call void @set.spread(ptr %work, ptr %spread)
  call void @set.halves(ptr %frame, ptr %work)
  call void @share.tiles(ptr %frame, ptr %work)
  ret void
}

; What @tiles.of.maps and @rows.of.channels compute, of maps in float16, in float32.
define internal void @tiles.of.narrow.maps(ptr %frame, ptr %finish) {
  %work = call ptr @work.on.pictures(ptr %frame, ptr @chunk.tiles, ptr %finish)
  call void @set.spread(ptr %work, ptr @spread.narrow)
  call void @share.tiles(ptr %frame, ptr %work)
  ret void
}

define internal void @rows.of.narrow.channels(ptr %frame, ptr %finish) {
  call void @channel.by.channel(ptr %frame, ptr %finish, ptr @depthwise.narrow)
  ret void
}

; What @chunk.tiles computes. Each entry is rounded after tiles are transformed: whole numbers have no room for growth.
define internal void @chunk.tiles.of.wholes(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {
entry:
  %here = alloca %Map
  %map = call ptr @map(ptr %work, i64 0)
  %channels = call i64 @map.numbers(ptr %map)
  %kernel = call ptr @map.kernel(ptr %map)
  %factors = call ptr @get.factors(ptr %work)
  %outputs = call i64 @get.outputs(ptr %work)
  %pairs = lshr i64 %channels, 1
  %inputs.each = mul i64 %count, %channels
  %products.each = mul i64 %count, %outputs
  %kernel.each = mul i64 %pairs, %outputs
  SCRATCH.int16_tiles
  %spread = call ptr @get.spread(ptr %work)
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
  %factor.at = getelementptr float, ptr %factors, i64 %entry.index
  %factor = load float, ptr %factor.at
  call void @set.map(ptr %here, i64 0, ptr %input, i64 %channels, i64 %channels, ptr %kernel.one)
  call void @set.narrow.map(ptr %here, i64 0, i64 0)
  call void @rounded.cells(ptr %here, i64 1, i64 %count, float %factor, ptr %rounded, i64 %channels, ptr %scales)
  call void @set.map(ptr %here, i64 0, ptr %rounded, i64 %pairs, i64 %pairs, ptr %kernel.one)
  call void @set.scales(ptr %here, i64 0, ptr %scales)
  call void @set.window(ptr %here, i64 0, i64 PAIRS.OF.TILES, i64 0)
  call void @rows.of.halves(ptr %here, i64 1, i64 %count, ptr %product.one, i64 %outputs)
  %entry.next = add i64 %entry.index, 1
  %is.more = icmp slt i64 %entry.next, 36
  br i1 %is.more, label %multiply, label %end
end:
  call void @gather(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %products, ptr %outside)
  ret void
}
