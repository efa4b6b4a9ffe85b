// SPDX-License-Identifier: Apache-2.0

// Package soil leaves dirt on the stack for programs that run next at the
// sockets of a cgroup: in a lab, a program that reads what it has not written
// must not find the zeros that happen to lie there.
//
// It is for tests and labs alone, and changes nothing that a program may rely
// on. Its one invariant is that sockets go on as if it were not there.
package soil

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// hooks are those of the datapath's programs of sockets.
var hooks = []ebpf.AttachType{
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
	ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
}

// Name is that of all its programs.
const Name = "soil"

// Soil is what is attached to a cgroup.
type Soil struct{ links []link.Link }

// Attach soils the stack before each run of a program that is attached to the
// cgroup later: the kernel runs those of one cgroup in that order, from one
// place of its own stack, so that their frames lie on each other. The caller
// closes it.
func Attach(path string) (s *Soil, err error) {
	s = &Soil{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("soil the stack of cgroup %s: %w", path, err), s.Close())
		}
	}()
	for _, hook := range hooks {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: Name, Type: ebpf.CGroupSockAddr, AttachType: hook, Instructions: dirt(), License: "Dual BSD/GPL",
		})
		if err != nil {
			return s, err
		}
		l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: hook, Program: prog})
		if err := errors.Join(err, prog.Close()); err != nil { // the link holds it
			return s, err
		}
		s.links = append(s.links, l)
	}
	return s, nil
}

// stack is how much of it a program may have, in octets.
const stack = 512

// dirt fills all of the stack with a number that is another one each time.
func dirt() asm.Instructions {
	out := asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.LSh.Imm(asm.R1, 32),
		asm.Or.Reg(asm.R0, asm.R1),
		asm.LoadImm(asm.R1, 0x0101010101010101, asm.DWord), // no octet is 0
		asm.Or.Reg(asm.R0, asm.R1),
	}
	out = append(out, filled()...)
	return append(out, asm.Mov.Imm(asm.R0, 1), asm.Return())
}

// filled writes R0 to all of the stack.
func filled() (out asm.Instructions) {
	for offset := int16(8); offset <= stack; offset += 8 {
		out = append(out, asm.StoreMem(asm.RFP, -offset, asm.R0, asm.DWord))
	}
	return out
}

// Close detaches it.
func (s *Soil) Close() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	s.links = nil
	return errors.Join(errs...)
}
