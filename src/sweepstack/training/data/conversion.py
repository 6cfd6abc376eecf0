"""Converts what a dataset returns to tensors to train on. An error says what is not understood, and the remedy."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError, one_line
from sweepstack.training.data.inputs import Inputs, over, tensors_of

LARGEST_EXACT_FLOAT32 = 2**24
"""The largest whole number up to which float32 holds every whole number."""
DARK = 128
"""8-bit numbers from 0 to 255 are taken as pixels only if one number of a training part is this bright or brighter."""


class Source(enum.Enum):
    """The type of images before they became tensors, which determines the order of their axes."""

    PICTURE = "PIL"
    """Certainly pixels; the colours are the last axis."""
    ARRAY = "NumPy"
    TENSOR = "PyTorch"


@dataclass(frozen=True)
class Given:
    """One part of a dataset as it was read; its values are not checked yet."""

    images: Any
    """Inputs [n, ...], see `Inputs`: on the CPU, strided, of any dtype that `tensor_of` accepts."""
    labels: Tensor
    """[n, ...], with the same properties."""
    source: Source

    @property
    def count(self) -> int:
        """The number of items."""
        return len(tensors_of(self.images)[0])


_REFUSED: Sequence[tuple[Callable[[Tensor], bool], str, str]] = (
    (lambda value: value.is_nested, "a nested tensor", "pad to one shape"),
    (lambda value: value.layout != torch.strided, "a sparse tensor", "call its to_dense()"),
    (lambda value: value.is_meta, "a tensor on the device meta, which holds no values", "make it on the device cpu"),
    (lambda value: value.is_quantized, "a quantized tensor", "call its dequantize()"),
    (
        lambda value: value.is_complex(),
        "complex numbers",
        "give real ones, such as abs(), or real and imaginary part as two channels",
    ),
)  # fmt: skip
"""Tensors that are refused: a test for each kind, its name, and the remedy."""
WHOLE = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)
"""The dtypes of whole numbers that are accepted."""
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The dtypes of real numbers that are accepted."""


def source_of(image: Any) -> Source:
    """Returns the type of an image, before it becomes a tensor. Several inputs are taken as they are."""
    if isinstance(image, Mapping | tuple):
        return Source.TENSOR
    if isinstance(image, Image.Image):
        return Source.PICTURE
    return Source.TENSOR if isinstance(image, Tensor) else Source.ARRAY


def tensor_of(value: Any) -> Tensor:
    """Converts a tensor, an array, a PIL image, a number or a list of numbers to a plain tensor on the CPU.

    The tensor has the same dtype, and may share memory with `value`.

    Raises:
        DataError: `value` is none of these, or has a dtype that no model can learn from.
    """
    if isinstance(value, Tensor):
        for is_so, name, remedy in _REFUSED:
            if is_so(value):
                raise DataError(f"it must be a plain tensor of numbers, not {name}", remedy=remedy)
        if value.dtype not in WHOLE + REAL:
            raise DataError("it must hold float32 numbers or integers", value.dtype, "call its float()")
        return value.detach().as_subclass(Tensor).cpu().resolve_neg()
    if isinstance(value, Image.Image) and value.mode in ("P", "PA"):
        raise DataError(
            "a picture must hold colours, not numbers of a palette",
            f"mode {value.mode}",
            'convert it: image.convert("RGB")',
        )
    if isinstance(value, np.ma.MaskedArray):
        raise DataError("it must be a plain array, not a masked one", remedy="call its filled(...)")
    try:
        array = np.asarray(value)
    except Exception as error:  # a list of lists of different lengths, or a user's object, can fail in any way
        raise DataError("it must be numbers", f"{type(value).__name__}: {one_line(error)}", "give a tensor") from error
    if array.dtype.kind == "c":
        return tensor_of(torch.zeros(1, dtype=torch.complex64))  # raises the error for complex tensors
    if array.dtype.kind not in "biuf":
        shown = value if array.ndim == 0 else f"an array of {array.dtype}"
        raise DataError("it must be numbers", shown, "give a tensor, an array of numbers or a PIL image")
    if array.dtype.itemsize > 8:  # long double
        array = array.astype(np.float64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=not array.flags.writeable))


def kind_of(image: Tensor) -> str:
    """Returns the shape and the dtype of a tensor in words."""
    return f"{list(image.shape)} {str(image.dtype).removeprefix('torch.')}"


def pair_of(item: Any) -> tuple[Any, Any]:
    """Returns the inputs and the target of an item.

    Raises:
        DataError: it is no pair.
    """
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    shown = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list | dict) else type(item).__name__
    remedy = "wrap the dataset, or select two of its parts; inputs may be a tuple or a dict of tensors"
    raise DataError("it must be a pair (inputs, target)", shown, remedy)


def no_items(config: DatasetConfig, part: str) -> DataError:
    """Returns the error for a part without items.

    Args:
        config: the dataset.
        part: the name of the part.
    """
    rule = f"dataset must give one image or more, {config.target} gives no {part} image"
    untested = ", or set +dataset.parts.test=null" if part == "test" else ""
    return DataError(rule, remedy=f"correct it{untested}")


def images_of(given: Given, config: DatasetConfig, part: str, is_whole: bool = True) -> Inputs:
    """Returns the inputs of a part as they are trained on: uint8 pixels from 0 to 255, float32, or int64 tokens.

    Whole numbers become float32, unless they are tokens or `dataset.shape` is not given.

    Args:
        given: the part as it was read.
        config: says the shape [n, *config.shape] of the inputs; without, they may have any form.
        part: "training" or "test".
        is_whole: False if `given` is a batch and not the whole part, by which pixels could be judged.

    Raises:
        DataError: the inputs do not have that shape, or are not numbers that a model can learn from.
    """
    target = config.target
    if not given.count:
        raise no_items(config, part)
    for tensor in tensors_of(given.images):
        if not tensor[0].numel():
            shape = list(tensor.shape[1:])
            rule = f"an image must hold numbers, the {part} images of {target} hold none"
            raise DataError(rule, shape, "correct it")
    if config.shape is None:
        if is_whole or config.collate_fn is None:
            _check_rows(given, config, part)
        return over(lambda tensor: _as_given(tensor, config, part), given.images)  # type: ignore[no-any-return]
    if not isinstance(given.images, Tensor):
        rule = (
            f"inputs of {target} are a {type(given.images).__name__} of tensors, which dataset.shape does not describe"
        )
        raise DataError(rule, list(config.shape), "set dataset.shape=null")
    shaped = _shaped(given, config, part).contiguous()
    if not config.tokens:
        _check_rows(given, config, part)
    if config.tokens or (shaped.dtype == torch.uint8 and not is_whole):
        return _as_given(shaped, config, part)
    if shaped.dtype == torch.uint8:
        check_pixels(given, config, part)
        return shaped
    if shaped.dtype in WHOLE:
        numbers = shaped.numpy()
        worst = max(int(numbers.max()), -int(numbers.min()))
        if worst > LARGEST_EXACT_FLOAT32:
            raise DataError(
                f"whole numbers in the {part} images of {target} must be from -{LARGEST_EXACT_FLOAT32:,} "
                f"to {LARGEST_EXACT_FLOAT32:,}, or float32 would round them",
                worst,
                "scale or renumber them; for tokens set dataset.tokens=true",
            )
        return torch.from_numpy(numbers.astype(np.float32))
    return _as_given(shaped, config, part)


def _as_given(tensor: Tensor, config: DatasetConfig, part: str) -> Tensor:
    """Returns pixels as they are, other whole numbers as int64, and real numbers as float32."""
    if config.tokens and tensor.dtype not in WHOLE:
        kind = str(tensor.dtype).removeprefix("torch.")
        rule = f"with dataset.tokens, inputs must be whole numbers, the {part} inputs of {config.target} are"
        raise DataError(rule, kind, "give int64, or leave out dataset.tokens")
    if tensor.dtype in WHOLE:
        return tensor if tensor.dtype == torch.uint8 and not config.tokens else tensor.long()
    floats = tensor.float()
    _check_finite(floats, config.target, part)
    return floats


def _check_finite(images: Tensor, target: str, part: str) -> None:
    if all(bool(bound.isfinite()) for bound in torch.aminmax(images)):
        return
    bad = ~images.flatten(1).isfinite()
    indices = bad.any(1).nonzero().flatten()
    value = float(images[indices[0]].flatten()[bad[indices[0]]][0])
    raise DataError(
        f"all numbers in the {part} images of {target} must be finite as float32",
        value,
        f"correct or leave out {len(indices):,} of {len(images):,} images, first number {int(indices[0])} (from 0)"
        if len(images) > 1
        else "correct it or leave it out",
    )


PIXELS = "uint8 numbers are taken as pixels from 0 to 255 and divided by 255"
NO_PIXELS = "for what is no pixel (tokens, counts) give float32 or int64, for pixels float32 from 0 to 1"


def _check_rows(given: Given, config: DatasetConfig, part: str) -> None:
    """Checks that uint8 numbers, which are taken as pixels and divided by 255, are no rows."""
    if given.source is Source.PICTURE or config.tokens:
        return
    for tensor in tensors_of(given.images):
        if tensor.dtype == torch.uint8 and len(_axes(tensor.shape[1:])) < 2 and len(_axes(config.shape or ())) < 2:
            rule = f"{PIXELS}, the {part} images of {config.target} are no pictures but rows"
            raise DataError(rule, list(tensor.shape[1:]), NO_PIXELS)


def check_pixels(given: Given, config: DatasetConfig, part: str) -> None:
    """Checks that uint8 numbers of a whole part are bright enough for pixels.

    Args:
        given: the images of the part.
        config: the dataset.
        part: the name of the part, such as "training".
    """
    if given.source is Source.PICTURE:
        return
    brightest = int(given.images.max())
    if part == "training" and 0 < brightest < DARK:
        rule = f"{PIXELS}, the {part} images of {config.target} have none above {DARK - 1}"
        raise DataError(rule, f"{brightest} as the highest", NO_PIXELS)


def _axes(shape: Sequence[int]) -> list[int]:
    """Returns a shape without its ones: two shapes that are equal here hold the same numbers in the same order."""
    return [size for size in shape if size != 1]


def _shaped(given: Given, config: DatasetConfig, part: str) -> Tensor:
    """Returns the images as [n, *config.shape].

    It adds and removes axes of size 1, moves colours to the front if the shape has them there, and flattens or
    unflattens pictures in one colour. It changes no other layout.
    """
    images, shape, target = given.images, config.shape, config.target
    assert shape is not None
    had = list(images.shape[1:])
    moved = images.movedim(-1, 1) if images.ndim == 4 else images
    as_is = _axes(had) == _axes(shape)
    as_moved = _axes(moved.shape[1:]) == _axes(shape)
    one_order = images.ndim != 4 or had[0] == 1 or had[-1] == 1  # if not, the axes have two possible meanings
    if as_is and as_moved and not one_order and given.source is Source.ARRAY and images.dtype == torch.uint8:
        raise DataError(
            f"it must be clear where the colours of the {part} images of {target} are",
            had,
            "give tensors instead of arrays: there they come first",
        )
    if as_moved and (not as_is or given.source is Source.PICTURE):
        images = moved
    elif not as_is:
        size = int(np.prod(had))
        flat = len(had) == 1 and len(_axes(shape)) <= 2
        flattened = len(_axes(shape)) == 1
        if size != np.prod(shape) or not (flat or flattened):
            colours_last = len(had) == 3 and had[-1] in (1, 3, 4) and given.source is not Source.TENSOR
            proper = [had[-1], *had[:-1]] if colours_last else had
            raise DataError(
                f"dataset.shape must be that of one image of {target}, whose {part} images are {had}",
                list(shape),
                f"set dataset.shape={str(proper).replace(' ', '')}, or let the dataset give the other shape",
            )
        images = moved if given.source is Source.PICTURE else images
    found: Tensor = images.reshape(len(images), *shape)
    return found


def targets_of(given: Given, config: DatasetConfig, part: str) -> Tensor:
    """Returns the targets of a part as they were given, one for each image; a task checks what they are.

    Args:
        given: the part as it was read.
        config: the dataset.
        part: "training" or "test".

    Raises:
        DataError: there are more or fewer of them than images.
    """
    if len(given.labels) != given.count:
        raise DataError(
            f"dataset must give as many labels as images, {config.target} gives {given.count:,} {part} images",
            f"{len(given.labels):,} labels",
            "correct it",
        )
    return given.labels
