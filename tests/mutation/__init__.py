# SPDX-License-Identifier: Apache-2.0
"""Small changes of the sources that tests have to notice: `python -m tests.mutation --help`."""
