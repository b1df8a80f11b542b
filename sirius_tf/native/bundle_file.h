/* SPDX-License-Identifier: Apache-2.0
 *
 * The file of a bundle, looked at before it is mapped: its bytes are those that were written, and loading them runs none.
 */
#ifndef SIRIUS_BUNDLE_FILE_H
#define SIRIUS_BUNDLE_FILE_H
#include <stddef.h>
#include <stdint.h>

/* SIRIUS_OK, or another code and what is wrong with the file behind a descriptor. */
int32_t sirius_check_file(int file, char *error, size_t error_bytes);

#endif
