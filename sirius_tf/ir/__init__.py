# SPDX-License-Identifier: Apache-2.0
"""The intermediate representation: Program, its printer, verifier and interpreter."""
