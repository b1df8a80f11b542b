# SPDX-License-Identifier: Apache-2.0
"""From generated C to one ELF object per SavedModel."""
