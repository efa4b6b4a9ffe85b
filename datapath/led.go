// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// TellsLed says whether the kernel lets BPF_PROG_TEST_RUN tell a program by which device
// a frame came in (ingress_ifindex, from 5.11 on). Where it does not, each frame is one
// that the node has made.
var TellsLed = sync.OnceValues(func() (bool, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weir_led", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return false, fmt.Errorf("load a program that is asked whether the kernel tells where frames come from: %w", err)
	}
	defer prog.Close()
	var out skbContext
	_, err = prog.Run(&ebpf.RunOptions{Data: make([]byte, 64), Context: &skbContext{IngressIfindex: 1}, ContextOut: &out})
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("run a program that is asked whether the kernel tells where frames come from: %w", err)
	}
	return true, nil
})
