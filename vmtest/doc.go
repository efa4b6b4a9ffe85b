// SPDX-License-Identifier: Apache-2.0

// Package vmtest boots Linux kernels in QEMU and runs programs in them, for
// tests that have to pass on other kernels than the machine's own.
//
// A kernel is one of a lock file, fetched from Debian by its digest, or an own
// one. It is booted once and kept as a snapshot; each machine is restored from
// it within a tenth of a second, even without hardware virtualization. The
// README has the whole story.
//
// It is not for running untrusted programs, nor for measuring speed: guests are
// isolated as QEMU isolates them, and an emulated processor is slow in its own
// ways. It imports nothing else of Weir.
//
// The invariant: a machine that fails never looks like a test that passes, nor
// like one that takes long. Whatever ends it is reported as an ErrBroken, in the
// kernel's words if it had any.
package vmtest
