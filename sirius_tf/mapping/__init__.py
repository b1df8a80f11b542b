# SPDX-License-Identifier: Apache-2.0
"""What a GPU does with a loop nest: decisions, before there is any text."""
