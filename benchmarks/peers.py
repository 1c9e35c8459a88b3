"""How each contender of ``benchmarks.inference`` is made: D-FINE in this library and in those it is compared with.

    $ python -m benchmarks.inference

Every function here takes a case's folder and returns what is timed: a call without arguments, from a normalised float32
batch that lies in memory to logits and boxes. Beside the folder lies ``model``, the weights in the Hub's layout. Each
contender has a process of its own, so libraries are imported where they are used, and none finds another's threads.
"""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PIXELS, GRAPH, MODEL = "pixels.npy", "graph.onnx", "model"
"""A case's pictures (B, 3, H, W) in 0..1, the graph for that batch size, and the weights, one folder up."""
THREADS = 2


class Answer(NamedTuple):
    """What a model says of a batch."""

    logits: np.ndarray
    """(B, Q, K)."""
    boxes: np.ndarray
    """(B, Q, 4): cx, cy, w, h in fractions of the picture."""


Run = Callable[[], Answer]


def ours(folder: Path, dtype: str) -> Run:
    """The library here, compiled as a ``Detector`` compiles, memory kept as commands keep it; float32 or bfloat16."""
    import jax

    from dfine_jax.inference.arguments import of_packed, pack
    from dfine_jax.inference.compiled import compile_lowered, picture_by_picture
    from dfine_jax.inference.fuse import fuse
    from dfine_jax.inference.memory import keep_freed_memory
    from dfine_jax.machine import arithmetic
    from dfine_jax.model.dfine import functional
    from dfine_jax.pretrained import load_pretrained

    keep_freed_memory()
    numbers = arithmetic(dtype)
    model = load_pretrained(folder.parent / MODEL, compute=numbers.compute).model
    apply, params, batch_stats = functional(fuse(model, operands=numbers.operands))
    apply, _ = of_packed(apply, params)
    params = jax.device_put(pack(params))
    pixels = jax.device_put(_channels_last(folder))

    def predict(params, batch_stats, pixels):
        def in_batch(pixels):
            output = apply(params, batch_stats, pixels)
            return output.logits, output.boxes

        return picture_by_picture(in_batch)(pixels)

    compiled = compile_lowered(jax.jit(predict).lower(params, batch_stats, pixels))
    return lambda: Answer(*map(np.asarray, compiled(params, batch_stats, pixels)))


def onnx_runtime(folder: Path) -> Run:
    """ONNX Runtime with its default optimisations."""
    session, pixels = _session(folder / GRAPH), np.load(folder / PIXELS)
    return lambda: Answer(*session.run(["logits", "boxes"], {"pixels": pixels}))


def our_graph(folder: Path) -> Run:
    """What ``dfine export --to onnx`` writes of the model, without its end, in ONNX Runtime as above."""
    from dfine_jax.export.exportable import exportable
    from dfine_jax.export.onnx_file import PROGRAM, save_onnx
    from dfine_jax.pretrained import open_pretrained

    stored, pixels = open_pretrained(folder.parent / MODEL), _channels_last(folder)
    save_onnx(exportable(stored, stored.preprocessing, end_to_end=False), folder, batch_size=len(pixels))
    session = _session(folder / PROGRAM)
    return lambda: Answer(*session.run(["logits", "boxes"], {"images": pixels}))


def _session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def openvino(folder: Path, precision: str) -> Run:
    """OpenVINO, which reads the same ONNX file; ``precision`` is f32 or bf16, ``RuntimeError`` if it isn't had."""
    from openvino import Core

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": precision}
    compiled = Core().compile_model(folder / GRAPH, "CPU", hints)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != precision:
        raise RuntimeError(f"OpenVINO computes in {used} on this processor, not in {precision}")
    request = compiled.create_infer_request()
    request.get_input_tensor().data[:] = np.load(folder / PIXELS)

    def run() -> Answer:
        request.infer()
        return Answer(*(request.get_tensor(name).data.copy() for name in ("logits", "boxes")))

    return run


def pytorch(folder: Path) -> Run:
    """The model of transformers as it comes, in eager mode."""
    import torch

    torch.set_num_threads(THREADS)
    model = transformers_model(folder)
    pixels = torch.from_numpy(np.load(folder / PIXELS))

    def run() -> Answer:
        with torch.inference_mode():
            return Answer(*(x.numpy() for x in model(pixels)))

    return run


def torch_compile(folder: Path) -> Run:
    """The same model through inductor, with weights as constants so that it may fold norms and repack kernels."""
    import torch
    from torch._inductor import config

    torch.set_num_threads(THREADS)
    config.freezing = True
    model = torch.compile(transformers_model(folder))
    pixels = torch.from_numpy(np.load(folder / PIXELS))

    def run() -> Answer:
        with torch.no_grad():  # inductor freezes under this, not under inference_mode
            return Answer(*(x.numpy() for x in model(pixels)))

    return run


def keras_hub(folder: Path) -> Run:
    """KerasHub's D-FINE-N on JAX, all of it one jitted function, with weights of its own making.

    KerasHub reads neither the Hub's files nor the original release's, so its answer is another one. Its own ``predict``
    goes on to non-maximum suppression, which the others don't do.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    detector = _keras_nano()
    pixels = jax.device_put(_channels_last(folder))
    variables = [
        [variable.value for variable in kind]
        for kind in (detector.trainable_variables, detector.non_trainable_variables)
    ]

    @jax.jit
    def predict(trainable, other, pixels):
        output, _ = detector.stateless_call(trainable, other, pixels, training=False)
        return output["logits"], output["pred_boxes"]

    return lambda: Answer(*map(np.asarray, predict(*variables, pixels)))


def transformers_model(folder: Path) -> Any:
    """The ``DFineForObjectDetection`` of transformers as a module from pixels to (logits, boxes) alone.

    Its checks of shapes at run time are off: they cost time, and ``torch.onnx`` has no operation for them.
    """
    os.environ.update(HF_HUB_OFFLINE="1", USE_TF="0", TRANSFORMERS_DISABLE_TORCH_CHECK="1")
    import torch
    from transformers import DFineForObjectDetection
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()

    class LogitsAndBoxes(torch.nn.Module):
        def __init__(self, detector: torch.nn.Module):
            super().__init__()
            self.detector = detector

        def forward(self, pixels):
            output = self.detector(pixel_values=pixels)
            return output.logits, output.pred_boxes

    detector = DFineForObjectDetection.from_pretrained(folder.parent / MODEL, dtype=torch.float32)
    return LogitsAndBoxes(detector).eval()


def export_onnx(folder: Path) -> None:
    """Writes the case's graph, of transformers' model, for its batch size and no other."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # names what torchvision would add
    pixels = torch.from_numpy(np.load(folder / PIXELS))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            transformers_model(folder),
            (pixels,),
            folder / GRAPH,
            input_names=["pixels"],
            output_names=["logits", "boxes"],
            opset_version=20,
            dynamo=True,
            verbose=False,
        )


def _channels_last(folder: Path) -> np.ndarray:
    return np.ascontiguousarray(np.load(folder / PIXELS).transpose(0, 2, 3, 1))


def _keras_nano() -> Any:
    """D-FINE-N for 80 classes, 300 queries and pictures of 640x640, as KerasHub's preset of it is configured."""
    from keras_hub.models import DFineBackbone, DFineObjectDetector, HGNetV2Backbone

    shape = dict(image_shape=(640, 640, 3), data_format="channels_last", out_features=["stage3", "stage4"])
    hgnetv2 = HGNetV2Backbone(
        stem_channels=[3, 16, 16],
        stackwise_stage_filters=[
            [16, 16, 64, 1, 3, 3],
            [64, 32, 256, 1, 3, 3],
            [256, 64, 512, 2, 3, 5],
            [512, 128, 1024, 1, 3, 5],
        ],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True],
        depths=[1, 1, 2, 1],
        hidden_sizes=[64, 256, 512, 1024],
        embedding_size=16,
        use_learnable_affine_block=True,
        hidden_act="relu",
        **shape,
    )
    network = DFineBackbone(
        backbone=hgnetv2,
        decoder_in_channels=[128, 128],
        encoder_in_channels=[512, 1024],
        encode_proj_layers=[1],
        encoder_hidden_dim=128,
        encoder_ffn_dim=512,
        num_encoder_layers=1,
        num_attention_heads=8,
        hidden_expansion=0.34,
        depth_multiplier=0.5,
        hidden_dim=128,
        num_decoder_layers=3,
        decoder_attention_heads=8,
        decoder_ffn_dim=512,
        decoder_n_points=[6, 6],
        eval_idx=-1,
        lqe_hidden_dim=64,
        num_lqe_layers=2,
        num_feature_levels=2,
        feat_strides=[16, 32],
        anchor_image_size=(640, 640),
        num_labels=80,
        num_queries=300,
        learn_initial_query=False,
        num_denoising=0,
        seed=0,
        **shape,
    )
    return DFineObjectDetector(backbone=network, num_classes=80)
