# SPDX-License-Identifier: Apache-2.0
"""Sizes of small versions of all models of the zoo, by the arguments of their builders."""

SIZES = {
    "attn_decode": {"heads": 2, "size": 8, "start": 3, "steps": 4},
    "beam_search": {"width": 8, "words": 12, "beams": 3, "steps": 3},
    "bert": {"depth": 2, "width": 24, "heads": 3, "length": 7, "vocabulary": 50},
    "bert_small": {"depth": 1, "width": 32, "length": 9, "vocabulary": 50},
    "bidirectional": {"width": 12, "steps": 5},
    "blockdrop": {"width": 8, "size": 6, "depth": 3},
    "dien": {"width": 6, "items": 20, "steps": 5},
    "efficientnet": {"pixels": 32, "last": "block2b_add"},
    "greedy": {"width": 12, "words": 20, "most": 6},
    "lstm": {"width": 12, "steps": 4},
    "lstm10": {"width": 12, "steps": 3, "depth": 4},
    "lstm_unrolled": {"width": 12, "steps": 5, "depth": 3},
    "mmoe": {"features": 21},
    "mmoe_souffle": {"features": 10},
    "mobilenet": {"pixels": 32, "last": "block_2_add"},
    "nasrnn": {"width": 12, "steps": 5},
    "refine": {"width": 12},
    "replace_rows": {"rows": 9, "width": 8, "steps": 5},
    "resnet50": {"pixels": 32, "last": "conv2_block2_out"},
    "resnext50": {"pixels": 32, "depths": (2, 1), "filters": 8, "groups": 4},
    "seq2seq": {"width": 12, "words": 20, "most": 6},
    "skip_rnn": {"width": 12, "steps": 6},
    "swin": {"pixels": 56, "width": 16, "stages": ((2, 2), (1, 2))},
    "vocabulary": {"width": 8},
}
