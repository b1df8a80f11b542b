# SPDX-License-Identifier: Apache-2.0
"""Models to try the compiler on."""
