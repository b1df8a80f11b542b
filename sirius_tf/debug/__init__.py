# SPDX-License-Identifier: Apache-2.0
"""The way from a wrong result to the pass, the statement and the element that are wrong first."""
