# SPDX-License-Identifier: Apache-2.0
"""Schedule trees to loops, and loops to source code."""
