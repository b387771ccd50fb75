"""Face features against OpenCV's resize and plain timm, which is how the features of the training table were made."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from mmtraits.encoders import face
from mmtraits.packages import located
from mmtraits.tokens import Tokens


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def encoder() -> face.Encoder:
    return face.Encoder(face.Config(storage="float32")).eval()


@pytest.fixture(scope="module")
def reference():
    """The packaged weights in timm's network, by our own few lines: tensors in order, batch counters left out."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    packaged = torch.load(located(face.Config().weights), weights_only=True)
    tensors = [tensor for name, tensor in packaged.items() if "num_batches" not in name]
    names = [name for name in network.state_dict() if "num_batches" not in name]
    network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return network


def crops(kind: str, count: int = 4) -> np.ndarray:
    """uint8 crops (count, 64, 64, 3): noise, as hard on the resize as can be, or blobs as smooth as skin."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    if kind == "noise":
        return noise
    blobs = np.stack([cv2.GaussianBlur(one, (0, 0), 6) for one in noise]).astype(float)
    return ((blobs - blobs.min()) / np.ptp(blobs) * 255).astype(np.uint8)


def enlarged(pictures: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(one, (160, 160), interpolation=cv2.INTER_CUBIC) for one in pictures])


def features(reference, pictures: np.ndarray) -> torch.Tensor:
    """The recipe of the training table, step by step: (count, 1280)."""
    pixels = (torch.from_numpy(enlarged(pictures)).float() - 127) / 128
    return reference.forward_features(pixels.permute(0, 3, 1, 2)).mean((2, 3))


def tokens(pictures: np.ndarray) -> Tokens:
    return Tokens(torch.from_numpy(pictures)[None], torch.ones(1, len(pictures), dtype=torch.bool))


@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_enlarging_is_opencv_to_one_grey_level(encoder, kind):
    pictures = crops(kind)
    lines = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    found = torch.round(encoder.enlarge @ lines @ encoder.enlarge.T).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    difference = np.abs(found - enlarged(pictures))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_the_matrix_keeps_grey_and_ends_at_the_border():
    matrix = face.cubic(64, 160)
    torch.testing.assert_close(matrix.sum(1), torch.ones(160))
    assert (matrix != 0).sum(1).max() == 4
    assert torch.equal(matrix.flip(0, 1), matrix)
    torch.testing.assert_close(face.cubic(8, 8), torch.eye(8))


def test_features_equal_plain_timm_on_the_same_pixels(encoder, reference):
    pixels = torch.randn(3, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    expected = reference.forward_features(pixels).mean((2, 3))
    assert (encoder.network(pixels) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("kind", "limit"), [("noise", 1e-3), ("smooth", 2e-2)])
def test_features_equal_the_recipe(encoder, reference, kind, limit):
    """To what a few pixels one grey level off make of it; smooth pictures have more values that lie between two."""
    pictures = crops(kind)
    found = encoder.frontend(tokens(pictures)).data[0]
    assert (found - features(reference, pictures)).abs().max() < limit


def test_colours_in_another_order_would_be_seen(encoder, reference):
    pictures = crops("smooth")
    swapped = encoder.frontend(tokens(pictures[..., ::-1].copy())).data[0]
    assert (swapped - features(reference, pictures)).abs().max() > 0.1


def test_float16_costs_little_and_weighs_half(encoder):
    small = face.Encoder(face.Config()).eval()
    pictures = crops("smooth")
    exact, found = (one.frontend(tokens(pictures)).data for one in (encoder, small))
    assert (found - exact).abs().max() < 0.05
    assert (found - exact).pow(2).mean().sqrt() < 0.01 * exact.std()
    weights = [t for name, t in small.network.state_dict().items() if name.endswith("original0")]
    assert all(t.dtype == torch.float16 for t in weights)
    assert sum(t.numel() * t.element_size() for t in small.network.state_dict().values()) < 7.2e6


def test_real_faces_lie_among_those_of_the_training_table(encoder, real_data):
    """Features of people who talk, cropped by our own detector, against the 1,781 given ones."""
    from mmtraits.media.load import clip_from_file, load
    from mmtraits.schema import Windowing

    with np.load(real_data / "data" / "first_impressions" / "faces.npz") as table:
        given = table["features"].astype(np.float64)
    mean, std = given.mean(0), given.std(0)
    axes = np.linalg.svd((given - mean) / std, full_matrices=False)[2][:50]
    spread = ((given - mean) / std @ axes.T).std(0)
    usual = np.linalg.norm((given - mean) / std @ axes.T / spread, axis=1)
    small = face.Encoder(face.Config(frames=4)).eval()
    distances = []
    for name in ("bbaf2n", "lrwp9a", "sbia1a", "swiz3n"):
        clip = clip_from_file(Path(real_data) / "clips" / "speaking" / f"{name}.mpg")
        crop = load(clip, {"face": small.spec}, Windowing()).windows[0].streams["face"]
        raw = Tokens(torch.from_numpy(crop.data)[None], torch.from_numpy(crop.mask)[None])
        exact, found = (one.frontend(raw).data[raw.mask] for one in (encoder, small))
        assert ((found - exact).abs().mean(0).numpy() / std).mean() < 0.02, "float16, in the table's own spread"
        distances.append(np.linalg.norm(((found.mean(0).numpy() - mean) / std) @ axes.T / spread))
    assert np.median(distances) < np.quantile(usual, 0.75)
    assert max(distances) < np.quantile(usual, 0.95)
