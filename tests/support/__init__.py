# SPDX-License-Identifier: Apache-2.0
"""What tests share: no test module is imported by another one."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
