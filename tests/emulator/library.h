/* SPDX-License-Identifier: Apache-2.0
 *
 * What driver.cpp calls of the shared object that emulator.py builds for a source of kernels. A kernel that
 * breaks a rule ends the process.
 */
#pragma once
#include "kernels.h"

extern "C" const emu::Argument *emu_parameters(const char *kernel) {
  const emu::Kernel *found = emu::find_kernel(kernel);
  return found ? found->parameters : nullptr;
}

/* A launch. One at a time. */
extern "C" void emu_run(const char *kernel, void **args, int64_t grid, int64_t block, size_t shared, bool cooperative) {
  emu::adopt_fiber(&emu::machine.fiber);
  emu::machine.cooperative = cooperative;
  emu::run_kernel(emu::find_kernel(kernel), args, grid, block, shared);
}
