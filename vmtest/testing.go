// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// guestEnv tells a test binary that it runs in a guest, and on which kernel.
const guestEnv = "WEIR_VMTEST_KERNEL"

// InGuest returns the id of the kernel, if this process was started in a guest
// by OnEachKernel.
func InGuest() (kernel string, ok bool) { return os.LookupEnv(guestEnv) }

// New returns a machine for a test, which is closed with it. The kernel is
// fetched if need be.
func New(t testing.TB, kernel string, o Options) *Machine {
	t.Helper()
	o.Progress = orTest(o.Progress, t)
	k, err := Find(t.Context(), kernel, FindOptions{Progress: o.Progress})
	if err != nil {
		t.Fatalf("find kernel %s: %v", kernel, err)
	}
	m, err := Start(t.Context(), k, o)
	if err != nil {
		t.Fatalf("start a guest with kernel %s: %+v", kernel, err)
	}
	t.Cleanup(func() { m.Close() })
	t.Logf("kernel %s: answered after %.3f s, %.1f times slower than this machine", m.Kernel.Release, m.Started.Seconds(), m.Slowdown)
	return m
}

// OnEachKernel runs a part of a test in guests: the test binary is started
// again in one guest for each kernel, with this test alone, and there calls the
// function. Outside the function, a test must not do what it does not want done
// in the guests too. Without kernels, it is all those of the lock.
//
//	func TestProgramLoads(t *testing.T) {
//		vmtest.OnEachKernel(t, vmtest.Options{}, nil, func(t *testing.T) {
//			coll, err := ebpf.LoadCollection("testdata/program.o") // runs in the guest
//			…
//		})
//	}
func OnEachKernel(t *testing.T, o Options, kernels []string, test func(t *testing.T)) {
	t.Helper()
	if id, ok := InGuest(); ok {
		t.Run(id, test)
		return
	}
	if kernels == nil {
		lock, err := DefaultLock()
		if err != nil {
			t.Fatal(err)
		}
		kernels = lock.IDs()
	}
	for _, id := range kernels {
		t.Run(id, func(t *testing.T) { runAgain(t, o, id) })
	}
}

// runAgain runs the running test in a guest.
func runAgain(t *testing.T, o Options, id string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var pattern []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	args := []string{"-test.run=" + strings.Join(pattern, "/"), "-test.count=1", "-test.v=" + fmt.Sprint(testing.Verbose())}
	c, err := GoTest(self, ".", args)
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	c.Env = append(c.Env, guestEnv+"="+id)
	c.Stdout, c.Stderr = &output, &output
	if deadline, ok := t.Deadline(); ok {
		c.Args = append(c.Args, "-test.timeout="+time.Until(deadline).Round(time.Second).String())
	}
	m := New(t, id, o)
	r, err := m.Run(t.Context(), c)
	if err != nil {
		t.Fatalf("%s\n%+v", &output, err)
	}
	switch {
	case r.ExitCode != 0:
		t.Fatalf("in the guest: exit code %d\n%s", r.ExitCode, &output)
	case strings.Contains(output.String(), "--- SKIP: "+t.Name()):
		t.Skipf("in the guest:\n%s", &output)
	case strings.Contains(output.String(), "no tests to run"):
		t.Fatalf("in the guest: the test was not found\n%s", &output)
	}
	t.Logf("in the guest:\n%s", &output)
}

// testProgress tells a test's log.
type testProgress struct{ t testing.TB }

func (p testProgress) Step(what string) { p.t.Log(what) }

func (p testProgress) Bytes(what string, done, total int64) {
	if done == total {
		p.t.Logf("%s: %d bytes", what, total)
	}
}

func orTest(p Progress, t testing.TB) Progress {
	if p == nil {
		return testProgress{t}
	}
	return p
}
