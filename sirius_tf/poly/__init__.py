# SPDX-License-Identifier: Apache-2.0
"""The polyhedral form of a Program: domains, access relations, dependences."""
