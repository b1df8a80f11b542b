# SPDX-License-Identifier: Apache-2.0
"""What code takes, and why."""
