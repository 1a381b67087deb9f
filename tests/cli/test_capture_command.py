"""`lp-routing capture` on a tiny model in a local folder."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lp_routing import traces
from lp_routing.cli import main
from tests.moe_families import run, tiny

pytest.importorskip("transformers")
WORDS = [f"w{number}" for number in range(3, 60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny DeepSeek-V3 and a tokenizer of 57 words, numbered 3 to 59."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    tiny("deepseek_v3", "ForCausalLM").save_pretrained(path)
    vocabulary = {"<unk>": 0} | {word: number for number, word in enumerate(WORDS, 3)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(path)
    return path


def invoke(*arguments, **given):
    return CliRunner().invoke(main, ["capture", *map(str, arguments)], **given)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_model_and_a_text_become_a_file(folder, tmp_path, suffix):
    text, output = tmp_path / "text.txt", tmp_path / f"logits.{suffix}"
    text.write_text(" ".join(WORDS[:20]))
    done = invoke(folder, text, "-o", output, "--length", "8", "--tokens", "18")
    assert done.exit_code == 0, done.output
    assert (
        "2 layer(s), 18 tokens, 4 experts; k: 2, score: sigmoid, selection bias: yes" in done.output
    )
    trace = traces.read(output)
    assert trace.sequence.tolist() == [0] * 8 + [1] * 8 + [2] * 2
    assert (trace.k, trace.score) == (2, "sigmoid")
    model = tiny("deepseek_v3", "ForCausalLM")
    with traces.capture(model) as captured:
        for ids in torch.arange(3, 21).split(8):
            run(model, ids[None])
    expected = captured.trace()
    torch.testing.assert_close(trace.router_logits, expected.router_logits)
    torch.testing.assert_close(trace.bias, expected.bias)
    judged = CliRunner().invoke(main, ["verify", str(output), "--k", "2", "--jobs", "1"])
    assert judged.exit_code == 0, judged.output


def test_text_from_standard_input_and_names(folder, tmp_path):
    output = tmp_path / "logits.npz"
    done = invoke(folder, "-o", output, "--names", "*.mlp.gate", input="w3 w4 w5 w6 w7")
    assert done.exit_code == 0, done.output
    assert traces.read(output).router_logits.shape == (2, 5, 4)


def test_what_cannot_be_captured_is_said_in_one_sentence(folder, tmp_path):
    text, output = tmp_path / "text.txt", tmp_path / "logits.npz"
    text.write_text("w3 w4")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    bytes_file = tmp_path / "bytes.txt"
    bytes_file.write_bytes(b"\xff\xfe\xfd")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    for arguments, said in (
        ((tmp_path, text, "-o", output), "there is no config.json"),
        ((broken, text, "-o", output), "could not be loaded by transformers"),
        ((folder, text, "-o", tmp_path / "logits.csv"), "ending in .npz or .safetensors"),
        ((folder, tmp_path / "no.txt", "-o", output), "cannot be read as text"),
        ((folder, bytes_file, "-o", output), "cannot be read as text"),
        ((folder, empty, "-o", output), "there is no text in it"),
        ((folder, text, "-o", output, "--tokens", "none"), "--tokens none"),
        ((folder, text, "-o", output, "--names", "*.router"), "There are layers.*.mlp.gate"),
    ):
        done = invoke(*arguments)
        assert (done.exit_code, said in done.output) == (2, True), done.output
        assert not output.exists()


def test_weights_that_are_not_there_are_not_made_up(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = load_file(copy / "model.safetensors")
    kept = {name: values for name, values in weights.items() if "gate.weight" not in name}
    assert len(kept) < len(weights)
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    done = invoke(copy, "-o", tmp_path / "logits.npz", input="w3 w4")
    assert done.exit_code == 2
    assert "has no weights" in done.output
    assert "gate.weight" in done.output


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    changed = (copy / "tokenizer.json").read_text().replace('"w59": 59', '"w59": 99')
    (copy / "tokenizer.json").write_text(changed)
    done = invoke(copy, "-o", tmp_path / "logits.npz", input="w3 w59")
    assert done.exit_code == 2
    assert "the tokenizer gives 2 tokens, up to 99, of which the model knows 0..63" in done.output


def test_the_file_is_what_numpy_reads(folder, tmp_path):
    output = tmp_path / "logits.npz"
    assert invoke(folder, "-o", output, input="w3 w4 w5 w6 w7").exit_code == 0
    with np.load(output, allow_pickle=False) as archive:
        assert archive["router_logits"].shape == (2, 5, 4)
