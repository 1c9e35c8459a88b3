; What XLA calls, and how the work is shared among XLA's threads. C's names for its types are in the header
; xla/ffi/api/c_api.h that comes with jaxlib. %Work and %Map are in work.py, @chunk.* in chunks.ll, what calls @work and
; @share in functions.ll.

%Version = type { i64, ptr, i32, i32 }                  ; XLA_FFI_Api_Version: 2 major, 3 minor
%Metadata = type { i64, %Version, i32 }                 ; XLA_FFI_Metadata: 1 api_version, 2 traits
%Extension = type { i64, i32, ptr, ptr }                ; XLA_FFI_Metadata_Extension: 1 type, 3 metadata
%Api = type { i64, ptr, %Version, ptr, [13 x ptr] }     ; XLA_FFI_Api: 4 functions
%Buffers = type { i64, ptr, i64, ptr, ptr }             ; XLA_FFI_Args and XLA_FFI_Rets: 2 size, 4 buffers
%Attributes = type { i64, ptr, i64, ptr, ptr, ptr }     ; XLA_FFI_Attrs: 5 attributes, in the order of their names
%Frame = type { i64, ptr, ptr, ptr, i32, %Buffers, %Buffers, %Attributes }  ; XLA_FFI_CallFrame: 1 extension, 2 api, 3 context
%Buffer = type { i64, ptr, i32, ptr, i64, ptr }         ; XLA_FFI_Buffer: 2 dtype, 3 data, 5 dims
%Scalar = type { i32, ptr }                             ; XLA_FFI_Scalar: 1 value
%Question = type { i64, ptr, ptr, ptr, ptr }            ; XLA_FFI_ThreadPool_{NumThreads,Schedule}_Args: 2 context
%Complaint = type { i64, ptr, ptr }                     ; XLA_FFI_Error_Destroy_Args: 2 error

declare ptr @malloc(i64)
declare void @free(ptr)
declare i32 @sched_yield()
declare void @llvm.x86.sse2.pause()
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)

; Chunk after chunk, until none is left.
define internal void @help(ptr %work) {
entry:
  %slot.at = call ptr @at.slot(ptr %work)
  %slot = atomicrmw add ptr %slot.at, i64 1 monotonic
  %slot.size = call i64 @get.slot.size(ptr %work)
  %all.scratch = call ptr @get.scratch(ptr %work)
  %offset = mul i64 %slot, %slot.size
  %scratch = getelementptr float, ptr %all.scratch, i64 %offset
  %next.at = call ptr @at.next(ptr %work)
  %finished.at = call ptr @at.finished(ptr %work)
  %chunks = call i64 @get.chunks(ptr %work)
  %chunk = call ptr @get.chunk(ptr %work)
  br label %more
more:
  %index = atomicrmw add ptr %next.at, i64 1 monotonic
  %is.one = icmp slt i64 %index, %chunks
  br i1 %is.one, label %one, label %done
one:
  call void @part(ptr %work, i64 %index, ptr %chunk, ptr %scratch)
  %before = atomicrmw add ptr %finished.at, i64 1 release
  br label %more
done:
  ret void
}

; One chunk: which picture's, and from which row on how many.
define internal void @part(ptr %work, i64 %index, ptr %chunk, ptr %scratch) {
  %each = call i64 @get.each(ptr %work)
  %picture = sdiv i64 %index, %each
  %place = srem i64 %index, %each
  %size = call i64 @get.size(ptr %work)
  %rows = call i64 @get.rows(ptr %work)
  %first = mul i64 %place, %size
  %left = sub i64 %rows, %first
  %count = call i64 @llvm.smin.i64(i64 %size, i64 %left)
  call void %chunk(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch)
  ret void
}

; The last thread to leave frees the work: some may come when all is done.
define internal void @leave(ptr %work) {
  %there.at = call ptr @at.there(ptr %work)
  %before = atomicrmw sub ptr %there.at, i64 1 acq_rel
  %is.last = icmp eq i64 %before, 1
  br i1 %is.last, label %last, label %done
last:
  call void @free(ptr %work)
  br label %done
done:
  ret void
}

define internal void @task(ptr %work) {
  call void @help(ptr %work)
  call void @leave(ptr %work)
  ret void
}

; Asks XLA for one of its functions, by its place among them and the size of its arguments; whether it did that.
define internal i1 @ask(ptr %frame, i64 %function, i64 %size, ptr %first, ptr %second) {
entry:
  %question = alloca %Question
  %complaint = alloca %Complaint
  store %Question zeroinitializer, ptr %question
  store i64 %size, ptr %question
  %context.from = getelementptr %Frame, ptr %frame, i32 0, i32 3
  %context = load ptr, ptr %context.from
  %context.to = getelementptr %Question, ptr %question, i32 0, i32 2
  store ptr %context, ptr %context.to
  %first.to = getelementptr %Question, ptr %question, i32 0, i32 3
  store ptr %first, ptr %first.to
  %second.to = getelementptr %Question, ptr %question, i32 0, i32 4
  store ptr %second, ptr %second.to
  %api.at = getelementptr %Frame, ptr %frame, i32 0, i32 2
  %api = load ptr, ptr %api.at
  %function.at = getelementptr %Api, ptr %api, i32 0, i32 4, i64 %function
  %call = load ptr, ptr %function.at
  %error = call ptr %call(ptr %question)
  %is.done = icmp eq ptr %error, null
  br i1 %is.done, label %done, label %refused
refused:
  store %Complaint { i64 24, ptr null, ptr null }, ptr %complaint
  %error.to = getelementptr %Complaint, ptr %complaint, i32 0, i32 2
  store ptr %error, ptr %error.to
  %destroy.at = getelementptr %Api, ptr %api, i32 0, i32 4, i64 2
  %destroy = load ptr, ptr %destroy.at
  call void %destroy(ptr %complaint)
  br label %done
done:
  ret i1 %is.done
}

define internal i64 @threads(ptr %frame) {
  %answer = alloca i64
  store i64 1, ptr %answer
  %ignored = call i1 @ask(ptr %frame, i64 12, i64 32, ptr %answer, ptr null)  ; without threads of XLA's there is one
  %threads = load i64, ptr %answer
  ret i64 %threads
}

; Has so many rows of each picture done, and returns then.
define internal void @share(ptr %frame, ptr %work, i64 %pictures, i64 %rows) {
entry:
  %threads = call i64 @threads(ptr %frame)
  %slots = call i64 @dimension(ptr %frame, i32 1, i64 1, i64 0)
  %most = call i64 @llvm.smin.i64(i64 %threads, i64 %slots)
  %size = call i64 @get.size(ptr %work)
  %size.less = sub i64 %size, 1
  %each.up = add i64 %rows, %size.less
  %each = sdiv i64 %each.up, %size
  %chunks = mul i64 %each, %pictures
  %useful = call i64 @llvm.smin.i64(i64 %most, i64 %chunks)
  call void @set.there(ptr %work, i64 %useful)
  call void @set.chunks(ptr %work, i64 %chunks)
  call void @set.each(ptr %work, i64 %each)
  call void @set.rows(ptr %work, i64 %rows)
  %is.something = icmp sgt i64 %chunks, 0
  br i1 %is.something, label %helper, label %nothing
nothing:
  call void @free(ptr %work)
  ret void
helper:
  %helpers = phi i64 [ 1, %entry ], [ %helpers.next, %asked ]
  %is.useful = icmp slt i64 %helpers, %useful
  br i1 %is.useful, label %one, label %join
one:
  %will.come = call i1 @ask(ptr %frame, i64 11, i64 40, ptr @task, ptr %work)
  br i1 %will.come, label %asked, label %refused
refused:
  call void @leave(ptr %work)  ; in the helper's place
  br label %asked
asked:
  %helpers.next = add i64 %helpers, 1
  br label %helper
join:
  call void @help(ptr %work)
  %finished.at = call ptr @at.finished(ptr %work)
  br label %wait
wait:  ; for chunks that others have begun
  %turns = phi i64 [ 0, %join ], [ %turns.next, %pause ], [ 0, %yield ]
  %finished = load atomic i64, ptr %finished.at acquire, align 8
  %is.finished = icmp eq i64 %finished, %chunks
  br i1 %is.finished, label %done, label %look
look:
  %is.long = icmp eq i64 %turns, 4096
  br i1 %is.long, label %yield, label %pause
pause:
  call void @llvm.x86.sse2.pause()
  %turns.next = add i64 %turns, 1
  br label %wait
yield:
  %ignored = call i32 @sched_yield()
  br label %wait
done:
  call void @leave(ptr %work)
  ret void
}

; Whether XLA asks for the version of its interface only; it is answered then.
define internal i1 @answer(ptr %frame) {
entry:
  %extension.at = getelementptr %Frame, ptr %frame, i32 0, i32 1
  %extension = load ptr, ptr %extension.at
  %is.extended = icmp ne ptr %extension, null
  br i1 %is.extended, label %extended, label %called
extended:
  %type.at = getelementptr %Extension, ptr %extension, i32 0, i32 1
  %type = load i32, ptr %type.at
  %is.metadata = icmp eq i32 %type, 1
  br i1 %is.metadata, label %asked, label %called
asked:
  %metadata.at = getelementptr %Extension, ptr %extension, i32 0, i32 3
  %metadata = load ptr, ptr %metadata.at
  %major = getelementptr %Metadata, ptr %metadata, i32 0, i32 1, i32 2
  store i32 0, ptr %major
  %minor = getelementptr %Metadata, ptr %metadata, i32 0, i32 1, i32 3
  store i32 1, ptr %minor
  %traits = getelementptr %Metadata, ptr %metadata, i32 0, i32 2
  store i32 0, ptr %traits
  ret i1 true
called:
  ret i1 false
}

; An argument, of kind 0, or a result, of kind 1.
define internal ptr @buffer(ptr %frame, i32 %kind, i64 %index) {
  %is.result = icmp ne i32 %kind, 0
  %arguments.at = getelementptr %Frame, ptr %frame, i32 0, i32 5, i32 4
  %results.at = getelementptr %Frame, ptr %frame, i32 0, i32 6, i32 4
  %buffers.at = select i1 %is.result, ptr %results.at, ptr %arguments.at
  %buffers = load ptr, ptr %buffers.at
  %buffer.at = getelementptr ptr, ptr %buffers, i64 %index
  %buffer = load ptr, ptr %buffer.at
  ret ptr %buffer
}

define internal ptr @data(ptr %frame, i32 %kind, i64 %index) {
  %buffer = call ptr @buffer(ptr %frame, i32 %kind, i64 %index)
  %data.at = getelementptr %Buffer, ptr %buffer, i32 0, i32 3
  %data = load ptr, ptr %data.at
  ret ptr %data
}

; Whether its numbers are in float16: 1 or 0.
define internal i64 @narrow(ptr %frame, i32 %kind, i64 %index) {
  %buffer = call ptr @buffer(ptr %frame, i32 %kind, i64 %index)
  %type.at = getelementptr %Buffer, ptr %buffer, i32 0, i32 2
  %type = load i32, ptr %type.at
  %is.narrow = icmp eq i32 %type, 10  ; XLA_FFI_DataType_F16
  %narrow = zext i1 %is.narrow to i64
  ret i64 %narrow
}

define internal i64 @dimension(ptr %frame, i32 %kind, i64 %index, i64 %axis) {
  %buffer = call ptr @buffer(ptr %frame, i32 %kind, i64 %index)
  %dims.at = getelementptr %Buffer, ptr %buffer, i32 0, i32 5
  %dims = load ptr, ptr %dims.at
  %dim.at = getelementptr i64, ptr %dims, i64 %axis
  %dim = load i64, ptr %dim.at
  ret i64 %dim
}

; The size of an axis, counted from the last one, which is 1.
define internal i64 @from.last(ptr %frame, i32 %kind, i64 %index, i64 %back) {
  %buffer = call ptr @buffer(ptr %frame, i32 %kind, i64 %index)
  %rank.at = getelementptr %Buffer, ptr %buffer, i32 0, i32 4
  %rank = load i64, ptr %rank.at
  %axis = sub i64 %rank, %back
  %dim = call i64 @dimension(ptr %frame, i32 %kind, i64 %index, i64 %axis)
  ret i64 %dim
}

; How many cells the result has, along all axes but the last.
define internal i64 @cells.in.all(ptr %frame) {
entry:
  %buffer = call ptr @buffer(ptr %frame, i32 1, i64 0)
  %rank.at = getelementptr %Buffer, ptr %buffer, i32 0, i32 4
  %rank = load i64, ptr %rank.at
  %axes = sub i64 %rank, 1
  br label %axis
axis:
  %index = phi i64 [ 0, %entry ], [ %index.next, %one ]
  %cells = phi i64 [ 1, %entry ], [ %cells.next, %one ]
  %is.more = icmp slt i64 %index, %axes
  br i1 %is.more, label %one, label %done
one:
  %size = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 %index)
  %cells.next = mul i64 %cells, %size
  %index.next = add i64 %index, 1
  br label %axis
done:
  ret i64 %cells
}

define internal i64 @attribute(ptr %frame, i64 %index) {
  %attributes.at = getelementptr %Frame, ptr %frame, i32 0, i32 7, i32 5
  %attributes = load ptr, ptr %attributes.at
  %scalar.at = getelementptr ptr, ptr %attributes, i64 %index
  %scalar = load ptr, ptr %scalar.at
  %value.at = getelementptr %Scalar, ptr %scalar, i32 0, i32 1
  %at = load ptr, ptr %value.at
  %value = load i64, ptr %at
  ret i64 %value
}

; An argument, or null where it has no numbers.
define internal ptr @data.if.any(ptr %frame, i64 %index) {
  %size = call i64 @dimension(ptr %frame, i32 0, i64 %index, i64 0)
  %is.any = icmp ne i64 %size, 0
  %data = call ptr @data(ptr %frame, i32 0, i64 %index)
  %chosen = select i1 %is.any, ptr %data, ptr null
  ret ptr %chosen
}

; What all work has: the function for a chunk, the result and the memory of each thread.
define internal ptr @new.work(ptr %frame, ptr %chunk) {
  %work = call ptr @malloc(i64 ptrtoint (ptr getelementptr (%Work, ptr null, i32 1) to i64))
  store %Work zeroinitializer, ptr %work
  %result = call ptr @data(ptr %frame, i32 1, i64 0)
  %scratch = call ptr @data(ptr %frame, i32 1, i64 1)
  %slot.size = call i64 @dimension(ptr %frame, i32 1, i64 1, i64 1)
  %outputs = call i64 @from.last(ptr %frame, i32 1, i64 0, i64 1)
  call void @set.chunk(ptr %work, ptr %chunk)
  call void @set.result(ptr %work, ptr %result)
  call void @set.scratch(ptr %work, ptr %scratch)
  call void @set.slot.size(ptr %work, i64 %slot.size)
  call void @set.outputs(ptr %work, i64 %outputs)
  ret ptr %work
}

; Work on maps, and then as many kernels, a bias, a scale and a shift, and two maps that are added or have no numbers,
; see finish.py; the last axis of maps are channels.
define internal ptr @work(ptr %frame, ptr %chunk, ptr %finish) {
entry:
  %work = call ptr @new.work(ptr %frame, ptr %chunk)
  %count.at = getelementptr %Frame, ptr %frame, i32 0, i32 5, i32 2
  %count = load i64, ptr %count.at
  %shortcut.index = sub i64 %count, 1
  %coarse.index = sub i64 %count, 2
  %affine.index = sub i64 %count, 3
  %bias.index = sub i64 %count, 4
  %maps = sdiv i64 %bias.index, 2
  %shortcut = call ptr @data.if.any(ptr %frame, i64 %shortcut.index)
  %coarse = call ptr @data.if.any(ptr %frame, i64 %coarse.index)
  %affine = call ptr @data(ptr %frame, i32 0, i64 %affine.index)
  %bias = call ptr @data(ptr %frame, i32 0, i64 %bias.index)
  %outputs = call i64 @get.outputs(ptr %work)
  %outputs.up = add i64 %outputs, 15
  %columns = and i64 %outputs.up, -16
  %size = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.work.size)
  call void @set.multiply(ptr %work, ptr @rows)
  call void @set.deep(ptr %work, i64 %columns)
  call void @set.finish(ptr %work, ptr %finish)
  call void @set.affine(ptr %work, ptr %affine)
  call void @set.bias(ptr %work, ptr %bias)
  call void @set.coarse(ptr %work, ptr %coarse)
  call void @set.shortcut(ptr %work, ptr %shortcut)
  %shortcut.narrow = call i64 @narrow(ptr %frame, i32 0, i64 %shortcut.index)
  call void @set.narrow.shortcut(ptr %work, i64 %shortcut.narrow)
  %narrow = call i64 @narrow(ptr %frame, i32 1, i64 0)
  call void @set.narrow(ptr %work, i64 %narrow)
  call void @set.columns(ptr %work, i64 %columns)
  call void @set.size(ptr %work, i64 %size)
  call void @set.maps(ptr %work, i64 %maps)
  %first.map = call ptr @map(ptr %work, i64 0)
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %map ]
  %base = call ptr @data(ptr %frame, i32 0, i64 %index)
  %channels = call i64 @from.last(ptr %frame, i32 0, i64 %index, i64 1)
  %kernel.index = add i64 %maps, %index
  %kernel = call ptr @data(ptr %frame, i32 0, i64 %kernel.index)
  %map.narrow = call i64 @narrow(ptr %frame, i32 0, i64 %index)
  call void @set.map(ptr %first.map, i64 %index, ptr %base, i64 %channels, i64 %channels, ptr %kernel)
  call void @set.narrow.map(ptr %first.map, i64 %index, i64 %map.narrow)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %maps
  br i1 %is.more, label %map, label %done
done:
  ret ptr %work
}
