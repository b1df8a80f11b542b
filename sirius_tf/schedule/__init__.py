# SPDX-License-Identifier: Apache-2.0
"""Schedule trees, and isl's verdict on them."""
