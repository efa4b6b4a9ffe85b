// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// This test binary is also what runs in the guests: with payloadEnv it plays
// one of the payloads instead of running tests.
const payloadEnv = "VMTEST_PAYLOAD"

func TestMain(m *testing.M) {
	name := os.Getenv(payloadEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	payload := payloads[name]
	if payload == nil {
		fmt.Fprintln(os.Stderr, "no payload", name)
		os.Exit(100)
	}
	if err := payload(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(101)
	}
}

var payloads = map[string]func() error{
	"echo": func() error {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	},
	"sleep": func() error {
		time.Sleep(time.Hour)
		return nil
	},
	"panic": func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0) },
	"warn":  func() error { return say(warning) },
	"memory": func() error {
		var hog [][]byte
		for {
			chunk := make([]byte, 16<<20)
			for i := 0; i < len(chunk); i += 4096 {
				chunk[i] = 1
			}
			hog = append(hog, chunk)
			runtime.KeepAlive(hog)
		}
	},
	"memory-of-a-child": func() error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		child := exec.Command(self)
		child.Env = []string{payloadEnv + "=memory"}
		child.Run()
		time.Sleep(time.Hour) // as one that waits for what its helper should have done
		return nil
	},
	"bpf": func() error {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 7), asm.Return()},
		})
		if err != nil {
			return err
		}
		defer prog.Close()
		code, _, err := prog.Test(make([]byte, 64))
		fmt.Println(code)
		return err
	},
	"hang":   hangInBPF,
	"clocks": readClocks,
	"service": func() error {
		token := rand.Uint64() // before the line that the snapshot waits for
		fmt.Printf("%s\n", os.Getenv(wordsEnv))
		input, err := io.ReadAll(os.Stdin)
		fmt.Printf("%d %s", token, input)
		return err
	},
	"service-that-ends": func() error {
		fmt.Fprintln(os.Stderr, "the table is missing")
		os.Exit(3)
		return nil
	},
	"service-that-warns": func() error {
		if err := say(warning); err != nil {
			return err
		}
		fmt.Println("ready")
		_, err := io.ReadAll(os.Stdin)
		return err
	},
}

// readClocks reads both clocks for a while, and says the time of day at first.
func readClocks() error {
	var last [2]int64
	begin := time.Now()
	fmt.Println(begin.UnixNano())
	for time.Since(begin) < 200*time.Millisecond {
		for i, clock := range []int32{unix.CLOCK_MONOTONIC, unix.CLOCK_REALTIME} {
			var now unix.Timespec
			if err := unix.ClockGettime(clock, &now); err != nil {
				return err
			}
			if now.Nano() < last[i] {
				return fmt.Errorf("clock %d went from %d to %d", clock, last[i], now.Nano())
			}
			last[i] = now.Nano()
		}
	}
	return nil
}

// warning is what kernels before 6.18 print for WARN(). No module that does
// it for real is in the packages; for whoever reads the console it is the same.
const warning = `------------[ cut here ]------------
WARNING: CPU: 0 PID: 77 at net/core/dev.c:3417 skb_warn_bad_offload+0x91/0xa0
Modules linked in:
CPU: 0 PID: 77 Comm: test Not tainted 6.1.0-56-cloud-amd64 #1
RIP: 0010:skb_warn_bad_offload+0x91/0xa0
Call Trace:
 <TASK>
 __skb_gso_segment+0xe1/0x110
 </TASK>
---[ end trace 0000000000000000 ]---
`

func say(text string) error {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	start := 0
	for i, c := range text {
		if c == '\n' {
			if _, err := f.WriteString("<4>" + text[start:i+1]); err != nil {
				return err
			}
			start = i + 1
		}
	}
	return nil
}

// hangInBPF runs a program that ends in some years: a loop of 8M rounds, in one
// of 8M rounds, in another. The kernel runs it without a break. It needs
// bpf_loop, which came with 5.17.
func hangInBPF() error {
	number := &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed}
	void := &btf.Pointer{Target: (*btf.Void)(nil)}
	function := func(name string, body asm.Instructions) asm.Instructions {
		proto := &btf.FuncProto{Return: number, Params: []btf.FuncParam{{Name: "i", Type: number}, {Name: "context", Type: void}}}
		if name == "main" {
			proto = &btf.FuncProto{Return: number, Params: []btf.FuncParam{{Name: "context", Type: void}}}
		}
		body[0] = btf.WithFuncMetadata(body[0].WithSymbol(name), &btf.Func{Name: name, Type: proto, Linkage: btf.StaticFunc})
		return body
	}
	loop := func(callback string) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Imm(asm.R1, 1<<23),
			asm.Instruction{OpCode: asm.LoadImmOp(asm.DWord), Dst: asm.R2, Src: asm.PseudoFunc, Constant: -1}.WithReference(callback),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnLoop.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		}
	}
	var all asm.Instructions
	all = append(all, function("main", loop("outer"))...)
	all = append(all, function("outer", loop("middle"))...)
	all = append(all, function("middle", loop("inner"))...)
	all = append(all, function("inner", asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})...)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "hang", Type: ebpf.SchedCLS, License: "GPL", Instructions: all})
	if err != nil {
		return fmt.Errorf("%+v", err)
	}
	_, _, err = prog.Test(make([]byte, 64))
	return err
}
