// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"os"
)

// Accelerator is how QEMU runs the guest's instructions.
type Accelerator string

// The two that matter on Linux.
const (
	KVM Accelerator = "kvm" // the processor runs them
	TCG Accelerator = "tcg" // QEMU translates them
)

// arguments of QEMU. Five-level page tables are left out, because walking
// them costs an emulated processor more.
func (a Accelerator) arguments() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,la57=off"}
}

// Choice is an accelerator and why it was chosen.
type Choice struct {
	Accelerator Accelerator
	Why         string // a sentence
}

// ChooseAccelerator returns KVM where something really ran on it.
func ChooseAccelerator(ctx context.Context) (Choice, error) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return Choice{TCG, "there is no /dev/kvm"}, nil
	}
	return Choice{TCG, "TODO"}, nil
}
