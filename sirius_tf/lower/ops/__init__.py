# SPDX-License-Identifier: Apache-2.0
"""The rules, one module for ops of a kind."""
