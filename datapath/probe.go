// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Sentinels of Open.
var (
	// ErrPrivilege: the process may not load BPF programs.
	ErrPrivilege = errors.New("not permitted to load BPF programs")
	// ErrKernel: the kernel lacks something that the datapath cannot do without.
	ErrKernel = errors.New("kernel not supported")
	// ErrLocked: another loader has the pins.
	ErrLocked = errors.New("the datapath has another owner")
)

// checkPrivilege asks the kernel, which knows of capabilities, user
// namespaces and lockdown alike.
func checkPrivilege() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err == nil {
		return prog.Close()
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("load a BPF program: %w: run as root, or with CAP_BPF and CAP_NET_ADMIN", ErrPrivilege)
	}
	return fmt.Errorf("load a BPF program: %w: %w: CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF are needed, from kernel 5.10 on", ErrKernel, err)
}

// probed is what differs between the kernels that are supported.
type probed struct {
	coarseClock bool // bpf_ktime_get_coarse_ns, from 5.11
	csumIPv6    bool // BPF_F_IPV6 of bpf_l4_csum_replace, from 6.16
	setRetval   bool // bpf_set_retval at the hooks of sockets, from 6.1
}

func probe() (probed, error) {
	for _, need := range []struct {
		what string
		err  error
	}{
		{"bpf_redirect_peer (kernel 5.10)", features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectPeer)},
		{"bpf_redirect_neigh (kernel 5.10)", features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectNeigh)},
		{"ring buffers (kernel 5.8)", features.HaveMapType(ebpf.RingBuf)},
	} {
		if errors.Is(need.err, ebpf.ErrNotSupported) {
			return probed{}, fmt.Errorf("probe %s: %w: Weir needs 5.10 or newer", need.what, ErrKernel)
		}
		if need.err != nil {
			return probed{}, fmt.Errorf("probe %s: %w", need.what, need.err)
		}
	}
	coarse := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs)
	if coarse != nil && !errors.Is(coarse, ebpf.ErrNotSupported) {
		return probed{}, fmt.Errorf("probe bpf_ktime_get_coarse_ns: %w", coarse)
	}
	retval, err := haveSetRetval()
	if err != nil {
		return probed{}, err
	}
	ipv6, err := haveCsumIPv6()
	return probed{coarseClock: coarse == nil, csumIPv6: ipv6, setRetval: retval}, err
}

// haveSetRetval loads a program that calls bpf_set_retval at a hook of sockets
// (kernel 6.1, dea6a4e17013). The library's probe calls it without an argument,
// and does not know what kernel 7.2 says of that.
func haveSetRetval() (bool, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, -int32(unix.ECONNREFUSED)),
			asm.FnSetRetval.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
		License: "Dual BSD/GPL",
	})
	switch {
	case err == nil:
		return true, prog.Close()
	case errors.Is(err, unix.EINVAL):
		return false, nil
	}
	return false, fmt.Errorf("probe bpf_set_retval: %w", err)
}

// haveCsumIPv6 runs bpf_l4_csum_replace with BPF_F_IPV6 (kernel 6.16,
// ead7f9b8de65), which older kernels refuse with EINVAL.
func haveCsumIPv6() (bool, error) {
	const pseudoHeader, ipv6 = 1 << 4, 1 << 7
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, 50),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, 1),
			asm.Mov.Imm(asm.R5, pseudoHeader|ipv6),
			asm.FnL4CsumReplace.Call(),
			asm.Return(),
		},
		License: "Dual BSD/GPL",
	})
	if err != nil {
		return false, fmt.Errorf("probe BPF_F_IPV6: %w", err)
	}
	defer prog.Close()
	ret, _, err := prog.Test(make([]byte, 64))
	if err != nil {
		return false, fmt.Errorf("probe BPF_F_IPV6: %w", err)
	}
	return ret == 0, nil
}

// haveTCX says whether tcx links can be made (kernel 6.6, e420bed02507).
func haveTCX() (bool, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		return false, fmt.Errorf("probe tcx: %w", err)
	}
	defer prog.Close()
	// No namespace has a device of this number: a kernel with tcx says so.
	const nowhere = 1<<31 - 1
	l, err := link.AttachTCX(link.TCXOptions{Interface: nowhere, Program: prog, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		return true, l.Close()
	case errors.Is(err, unix.ENODEV):
		return true, nil
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL):
		return false, nil
	}
	return false, fmt.Errorf("probe tcx: %w", err)
}
