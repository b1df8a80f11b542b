# SPDX-License-Identifier: Apache-2.0
"""Schedule trees to loop nests."""
