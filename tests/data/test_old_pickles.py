"""The pickles of torchvision's first MNIST are neither read nor recommended to be read unsafely."""

from __future__ import annotations

import pickle

import pytest
import torch

from tlx.data import datasets
from tlx.errors import UnsafeError
from tlx.models.weights import reader as weights_reader


class Payload:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("content", ["tensors", "program", "rubbish"])
@pytest.mark.parametrize(("key", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_processed_files_are_refused_in_our_own_words(tmp_path, capsys, content, key, folder):
    (tmp_path / folder / "raw").mkdir(parents=True)
    (tmp_path / folder / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        path = tmp_path / folder / "processed" / name
        if content == "tensors":
            torch.save(
                (torch.zeros(2, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)), path
            )
        else:
            path.write_bytes(
                pickle.dumps(Payload()) if content == "program" else b"\x80\x02rubbish"
            )
    with pytest.raises(UnsafeError) as refused:
        datasets.locate(key, tmp_path / "cache", data_root=tmp_path)
    assert refused.value.exit_code == 4
    assert "training.pt" in str(refused.value)
    assert f"{folder}/raw" in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "data", [b"\x80\x02rubbish", pickle.dumps({"a": 1}, 2)[:-1], b"\x80\x02}q\x00X\x01"]
)
def test_a_weight_file_that_torch_will_not_read_is_not_answered_with_its_advice(tmp_path, data):
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(Exception, match=r"weights-") as refused:
        weights_reader.read(tmp_path / "w.pth")
    assert "weights_only" not in str(refused.value)
