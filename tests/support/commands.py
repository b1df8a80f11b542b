# SPDX-License-Identifier: Apache-2.0
"""Command lines."""

from absl import flags


def parse(tool, *words):
    values = flags.FlagValues()
    tool.define_flags(values)
    return values(["tool", *words]), values
