# SPDX-License-Identifier: Apache-2.0
"""Long tests, as commands that print a table; pytest runs short versions of them."""
