# SPDX-License-Identifier: Apache-2.0
"""Decisions about a loop nest on a GPU, made before there is any text."""
