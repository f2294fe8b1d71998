"""Hooks act where they should, do nothing where they should not, and are gone afterwards."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

import focus
from focus.decoding import BlockAttention, GenerationSettings, Plain
from focus.errors import InvalidValueError
from focus.hooks import (
    GROUPS,
    captured,
    different_images,
    edge,
    knocked_out,
    patched,
    stream_modules,
    token_groups,
)
from focus.models.tiny import build_tiny
from focus.reading import Reader

ONE = GenerationSettings(max_new_tokens=1)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def attentive(request, any_vlm):
    """Every family under either implementation of attention."""
    model = copy.deepcopy(any_vlm.model)
    model.set_attn_implementation(request.param)
    return replace(any_vlm, model=model)


def hooks_of(vlm) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())


def first_logits(vlm, strategy, request):
    return strategy.decode(vlm, request, ONE, keep_logits="first").combined_logits[0]


def test_a_reading_is_what_plain_decoding_sees(attentive, ask):
    reader = Reader(attentive)
    for request in (ask(1), ask(3)):
        reading = reader.reading(request)
        expected = first_logits(attentive, Plain(), request)
        both = reader.logits([reading, reading])
        torch.testing.assert_close(both[:1], expected)
        torch.testing.assert_close(both[1:], expected)


def test_every_token_is_in_one_group(any_vlm, ask):
    reader = Reader(any_vlm)
    reading = reader.reading(ask(3, targets=[1]))
    assert tuple(reading.groups) == GROUPS
    assert torch.stack(list(reading.groups.values())).sum(0).tolist() == [1] * reading.length
    assert reading.image(1).equal(reading.groups["asked image"])
    assert (reading.image(0) | reading.image(2)).equal(reading.groups["other images"])
    assert reading.groups["delimiters"].sum() == (3 if any_vlm.family.name == "llava_onevision" else
                                                  6)  # fmt: skip
    everything = token_groups(any_vlm, reading.prompt)
    assert not everything["other images"].any()


def test_a_knocked_out_edge_has_no_weight(attentive, ask):
    """Whatever the keys hold, the queries take nothing of it: the same to the last bit."""
    reader = Reader(attentive)
    reading = reader.reading(ask(2, targets=[0]))
    keys = reading.groups["asked image"]
    queries = reading.tokens("question", "last token")
    hidden = edge(queries, keys)
    module = attentive.family.decoder_layers(attentive.model)[1].self_attn
    kept = {}

    def louder(module, args, output):  # what the keys hold, in the values alone
        return torch.where(keys[:, None], output + 100, output)

    def keep(module, args, kwargs, output):
        kept["out"], kept["weights"] = output[0][0], output[1]

    def attended(noisy, hide):
        handles = [module.register_forward_hook(keep, with_kwargs=True)]
        handles += [module.v_proj.register_forward_hook(louder)] if noisy else []
        try:
            with knocked_out(attentive, hide, layers=[1]):
                reader.logits([reading])
        finally:
            for handle in handles:
                handle.remove()
        return kept["out"][queries].clone()

    nothing = torch.zeros_like(hidden)
    assert torch.equal(attended(False, hidden), attended(True, hidden))
    assert not torch.allclose(attended(False, nothing), attended(True, nothing))  # control
    if attentive.model.config.get_text_config()._attn_implementation == "eager":
        attended(False, hidden)
        weights = kept["weights"][0]  # [heads, length, length]
        assert not weights[:, hidden].any()
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_attention_to_images_adds_up_and_is_gone_where_it_is_cut(attentive, ask):
    reader = Reader(attentive)
    reading = reader.reading(ask(3, targets=[0]))
    reader.logits([reading])  # the first pass of some vision towers registers hooks of its own
    before = hooks_of(attentive)
    if attentive.model.config.get_text_config()._attn_implementation != "eager":
        with pytest.raises(InvalidValueError, match="eager"):
            reader.attention(reading)
        assert hooks_of(attentive) == before
        return
    shares = reader.attention(reading)
    assert shares.shape == (reader.num_places - 1, 4)  # three images, and the rest
    torch.testing.assert_close(shares.sum(-1), torch.ones(len(shares)))
    assert (shares > 0).all()
    with knocked_out(attentive, edge(reading.groups["last token"], reading.image(1)), layers=[1]):
        cut = reader.attention(reading)
    assert (cut[:, 1] > 0).tolist() == [layer != 1 for layer in range(len(cut))]
    assert not reader.attention(reading, reading.image(0))[:, 1:3].any()  # of those that follow
    assert hooks_of(attentive) == before


def test_knocking_out_nothing_is_the_identity_and_rows_have_edges_of_their_own(attentive, ask):
    reader = Reader(attentive)
    reading = reader.reading(ask(3, targets=[0]))
    plain = reader.logits([reading])
    hidden = edge(reading.tokens("question", "last token"), reading.groups["asked image"])
    nothing = torch.zeros_like(hidden)
    with knocked_out(attentive, torch.stack([nothing, hidden])):
        rows = reader.logits([reading, reading])
    torch.testing.assert_close(rows[:1], plain)
    assert not torch.allclose(rows[1:], plain, atol=1e-3)
    with knocked_out(attentive, hidden):
        torch.testing.assert_close(reader.logits([reading]), rows[1:])
    images = different_images(reading.prompt)
    with knocked_out(attentive, images):
        blocked = reader.logits([reading])
    expected = first_logits(attentive, BlockAttention(), ask(3))
    torch.testing.assert_close(blocked, expected)


def test_the_last_state_is_what_the_model_says(any_vlm, ask):
    reader = Reader(any_vlm)
    reading = reader.reading(ask(2))
    with captured(any_vlm) as states:
        said = reader.logits([reading])
    assert sorted(states) == list(range(reader.num_places))
    assert len(stream_modules(any_vlm)) == reader.num_places
    torch.testing.assert_close(reader.unembedded(states[reader.num_places - 1][:, -1]), said)
    with captured(any_vlm, lambda h: h[:, -1], places=[1]) as taken:
        reader.logits([reading])
    torch.testing.assert_close(taken, {1: states[1][:, -1]})


def test_patching_everything_gives_the_other_run_and_nothing_the_own(any_vlm, ask, images):
    reader = Reader(any_vlm)
    request = ask(2)
    one = reader.reading(request)
    other = reader.reading(replace(request, images=(images[0], images[1].rotate(180))))
    with captured(any_vlm) as states:
        there = reader.logits([other])
    here = reader.logits([one])
    assert not torch.allclose(here, there, atol=1e-3)
    everywhere = torch.ones(one.length, dtype=torch.bool)
    with patched(any_vlm, states, everywhere):
        assert torch.equal(reader.logits([one]), there)
    with patched(any_vlm, states, ~everywhere):
        assert torch.equal(reader.logits([one]), here)
    for place in range(reader.num_places):
        # DeepStack adds the features of its own images behind the first two layers.
        whole = place >= 2 or any_vlm.family.name != "qwen3_vl"
        with patched(any_vlm, {place: states[place]}, everywhere):
            assert torch.equal(reader.logits([one]), there) == whole
    with patched(any_vlm, {0: states[0]}, one.image(1)):
        assert torch.allclose(reader.logits([one]), there) == (any_vlm.family.name != "qwen3_vl")


def test_hooks_leave_no_trace_also_after_an_exception(vlm, ask):
    reader = Reader(vlm)
    reading = reader.reading(ask(2))
    plain, before = reader.logits([reading]), hooks_of(vlm)
    everywhere = torch.ones(reading.length, dtype=torch.bool)
    zeros = {1: torch.zeros(1, reading.length, 64)}
    hidden = edge(reading.groups["last token"], everywhere)
    for hooks in (
        lambda: captured(vlm),
        lambda: patched(vlm, zeros, everywhere),
        lambda: knocked_out(vlm, hidden),
    ):
        with suppress(ZeroDivisionError), hooks():
            assert hooks_of(vlm) > before
            reader.logits([reading])
            raise ZeroDivisionError
        assert hooks_of(vlm) == before
    assert torch.equal(reader.logits([reading]), plain)


def test_what_a_model_does_not_have_is_refused(vlm, ask):
    with pytest.raises(InvalidValueError, match="from 0 to 3"), captured(vlm, places=[4]):
        pass
    with (
        pytest.raises(InvalidValueError, match="below 3"),
        knocked_out(vlm, torch.zeros(2, 2, dtype=torch.bool), layers=[7]),
    ):
        pass
    flash = build_tiny("internvl")
    flash.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with (
        pytest.raises(InvalidValueError, match="eager or sdpa"),
        knocked_out(flash, torch.zeros(2, 2, dtype=torch.bool)),
    ):
        pass


def test_hooks_work_on_a_model_that_is_spread_over_memory_and_disk(tmp_path, ask):
    whole = build_tiny("qwen3_vl")
    whole.model.save_pretrained(tmp_path / "model")
    whole.processor.save_pretrained(tmp_path / "model")
    language = "model.language_model"
    placed = {"model.visual": "cpu", "lm_head": "cpu", f"{language}.norm": "disk"}
    placed |= {f"{language}.{name}": "cpu" for name in ("embed_tokens", "rotary_emb")}
    placed |= {f"{language}.layers.{k}": "disk" if k else "cpu" for k in range(3)}
    spread = focus.load(tmp_path / "model", dtype="float32", device_map=placed,
                        offload_folder=str(tmp_path / "parts"))  # fmt: skip
    said = []
    for vlm in (whole, spread):
        reader = Reader(vlm)
        reading = reader.reading(ask(2, targets=[0]))
        hidden = edge(reading.groups["last token"], reading.groups["asked image"])
        with captured(vlm, lambda h: h[:, -1]) as states, knocked_out(vlm, hidden):
            logits = reader.logits([reading])
        with patched(vlm, {2: 0 * states[2][:, None]}, reading.groups["last token"]):
            silenced = reader.logits([reading])
        said.append((logits, silenced, reader.unembedded(states[3])))
    torch.testing.assert_close(said[0], said[1])
