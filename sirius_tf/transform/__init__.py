# SPDX-License-Identifier: Apache-2.0
"""Program -> Program, whatever the machine."""
