# SPDX-License-Identifier: Apache-2.0
"""Places of tensors in the files of a checkpoint."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle.seal import crc32c
from sirius_tf.errors import SiriusError
from sirius_tf.rewrite import checkpoint

INDEX = "variables/variables.index"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of more tensors than a restart point of the index is for, some with a common start."""
    folder, module = tmp_path_factory.mktemp("saved"), tf.Module()
    rng = np.random.default_rng(0)
    module.layers = [tf.Variable(rng.standard_normal((k + 1, 3)).astype("f")) for k in range(40)]
    tf.train.Checkpoint(module=module).write(str(folder / "variables" / "variables"))
    return folder


def test_bytes_and_checksums_are_where_they_are_said_to_be(model):
    places = checkpoint.tensor_places(model)
    reader = tf.train.load_checkpoint(str(model / "variables" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "layers" in name]
    assert len(names) == 40
    for name in names:
        place, value = places[name], reader.get_tensor(name)
        data = (model / place.file).read_bytes()[place.offset :][: value.nbytes]
        assert data == value.tobytes() and crc32c(data) == place.crc32c


def test_what_is_no_index(model, tmp_path):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / INDEX).read_bytes()
    for data in (b"", whole[:40], whole[:-1]):
        (tmp_path / INDEX).write_bytes(data)
        with pytest.raises(SiriusError, match=r"variables.index is not the index of a checkpoint"):
            checkpoint.tensor_places(tmp_path)
