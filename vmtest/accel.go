// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Accelerator is how QEMU runs the guest's instructions.
type Accelerator string

// The two that matter on Linux.
const (
	KVM Accelerator = "kvm" // the processor runs them
	TCG Accelerator = "tcg" // QEMU translates them
)

// AcceleratorEnv names the environment variable that takes the choice away.
const AcceleratorEnv = "WEIR_ACCEL"

// arguments of QEMU. Five-level page tables are left out, because walking
// them costs an emulated processor more.
func (a Accelerator) arguments() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	// Without erms the kernel clears and copies pages by eight bytes a step: QEMU
	// emulates "rep stosb" byte by byte, which was a quarter of all time.
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,la57=off,erms=off"}
}

// Choice is an accelerator and why it was chosen.
type Choice struct {
	Accelerator Accelerator
	Why         string // a sentence
	Remedy      string // what would make it faster; empty if nothing would
}

// kvmDevice is how the kernel offers KVM.
const kvmDevice = "/dev/kvm"

// kvmDeadline is ten times what a boot takes with KVM.
const kvmDeadline = 10 * time.Second

// ChooseAccelerator returns KVM where a kernel really booted on it. That the
// device is there, and even that it opens, says little: there are machines
// where it runs only guests of a special kind. What was found holds until this
// machine boots again or has another QEMU.
func ChooseAccelerator(ctx context.Context, k *Kernel) (Choice, error) {
	switch own := Accelerator(os.Getenv(AcceleratorEnv)); own {
	case "":
	case KVM, TCG:
		return Choice{own, AcceleratorEnv + " says so", ""}, nil
	default:
		return Choice{}, fmt.Errorf("%s=%s: there is only %s and %s", AcceleratorEnv, own, KVM, TCG)
	}
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Choice{TCG, "there is no " + kvmDevice,
			"a machine with hardware virtualization (in a cloud: with nested virtualization), and the module kvm_amd or kvm_intel"}, nil
	case errors.Is(err, os.ErrPermission):
		return Choice{TCG, "this user may not open " + kvmDevice, "`adduser $USER kvm`, and a new login"}, nil
	case err != nil:
		return Choice{TCG, fmt.Sprintf("%s does not open: %v", kvmDevice, err), "hardware virtualization, switched on in the firmware"}, nil
	}
	f.Close()
	return rememberedChoice(ctx, k)
}

// rememberedChoice asks the cache, or tries.
func rememberedChoice(ctx context.Context, k *Kernel) (Choice, error) {
	path, err := findQEMU()
	if err != nil {
		return Choice{}, err
	}
	identity, err := qemuIdentity(path)
	if err != nil {
		return Choice{}, err
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Choice{}, fmt.Errorf("recognize this boot: %w", err)
	}
	cache, err := CacheDir()
	if err != nil {
		return Choice{}, err
	}
	file := filepath.Join(cache, "kvm-"+digestBytes([]byte(identity + string(bootID) + fmt.Sprint(os.Getuid())))[:16]+".json")
	if choice, ok := readChoice(file); ok {
		return choice, nil
	}
	unlock, err := lockCache(ctx, "kvm")
	if err != nil {
		return Choice{}, err
	}
	defer unlock()
	if choice, ok := readChoice(file); ok {
		return choice, nil
	}
	choice, err := tryKVM(ctx, k)
	if err != nil {
		return Choice{}, err
	}
	old, _ := filepath.Glob(filepath.Join(cache, "kvm-*.json"))
	for _, f := range old {
		os.Remove(f)
	}
	return choice, os.WriteFile(file, encode(choice), 0o644)
}

func readChoice(file string) (Choice, bool) {
	var c Choice
	data, err := os.ReadFile(file)
	return c, err == nil && json.Unmarshal(data, &c) == nil && c.Accelerator != ""
}

// tryKVM boots the kernel on KVM.
func tryKVM(ctx context.Context, k *Kernel) (Choice, error) {
	limited, cancel := context.WithTimeoutCause(ctx, kvmDeadline, fmt.Errorf("no answer within %s", kvmDeadline))
	defer cancel()
	m, err := Start(limited, k, Options{Accelerator: KVM, Cold: true})
	if ctx.Err() != nil {
		return Choice{}, context.Cause(ctx)
	}
	if err == nil {
		defer m.Close()
		return Choice{KVM, fmt.Sprintf("kernel %s booted on it in %.2f s", k.ID, m.Started.Seconds()), ""}, nil
	}
	reason, _, _ := strings.Cut(err.Error(), "\n")
	return Choice{TCG, fmt.Sprintf("%s is there, but kernel %s did not boot on it: %s", kvmDevice, k.ID, reason),
		"a machine whose KVM runs any guest (this one's may be for special guests only)"}, nil
}
