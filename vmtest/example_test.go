// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/weirnet/weir/vmtest"
)

// The lock names kernels by the words that people use for them.
func ExampleDefaultLock() {
	lock, err := vmtest.DefaultLock()
	if err != nil {
		log.Fatal(err)
	}
	for _, k := range lock.Kernels {
		if k.ID == "5.10" {
			fmt.Println(k.ID, "is of Debian's", k.Suite)
		}
	}
	// Output: 5.10 is of Debian's bullseye-security
}

// A program of this machine runs in another kernel. That takes QEMU, and the kernel:
// 'weir vm fetch' brings it.
func ExampleMachine_Run() {
	ctx := context.Background()
	kernel, err := vmtest.Find(ctx, "6.1", vmtest.FindOptions{})
	if err != nil {
		log.Fatal(err)
	}
	m, err := vmtest.Start(ctx, kernel, vmtest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	// A kernel that complains meanwhile fails the command: see SplatError.
	result, err := m.Run(ctx, &vmtest.Command{
		Path: "uname", Args: []string{"-r"}, Stdout: os.Stdout, Timeout: 10 * time.Second,
	})
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println("exit status", result.ExitCode)
}

// A part of a test runs in several kernels, each as a subtest. In the guest the
// test's own binary runs that part alone.
func ExampleOnEachKernel() {
	test := func(t *testing.T) { // TestSomething, in a file of tests
		vmtest.OnEachKernel(t, vmtest.Options{}, []string{"5.10", "7.2"}, func(t *testing.T) {
			if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
				t.Errorf("the kernel has no BTF: %v", err)
			}
		})
	}
	_ = test // go test calls it
}
