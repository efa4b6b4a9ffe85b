// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/scenarios/syntax"
)

// lockedKernels are those on which every skip has to be declared.
var lockedKernels = []string{"5.10", "6.1", "6.12", "6.18", "7.2"}

// Kernel gives the running kernel's release.
func Kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// majorMinor cuts a release to two numbers; 0, 0 when it has none.
func majorMinor(release string) (major, minor int) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return 0, 0
	}
	major, _ = strconv.Atoi(parts[0])
	digits := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(parts[1])
	}
	minor, _ = strconv.Atoi(parts[1][:digits])
	return major, minor
}

// older says whether release a is older than b, by major and minor.
func older(a, b string) bool {
	aMajor, aMinor := majorMinor(a)
	bMajor, bMinor := majorMinor(b)
	return aMajor < bMajor || aMajor == bMajor && aMinor < bMinor
}

// kernelConfig reads the running kernel's configuration; nil where it is
// nowhere to be read.
var kernelConfig = sync.OnceValue(func() map[string]string {
	var r io.Reader
	if data, err := os.ReadFile("/proc/config.gz"); err == nil {
		if r, err = gzip.NewReader(bytes.NewReader(data)); err != nil {
			return nil
		}
	} else if data, err := os.ReadFile("/boot/config-" + Kernel()); err == nil {
		r = bytes.NewReader(data)
	} else {
		return nil
	}
	out := map[string]string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			out[strings.TrimPrefix(name, "CONFIG_")] = value
		}
	}
	return out
})

// lacks gives what the kernel lacks for a scenario, or "". What a kernel
// does not tell of itself, it is taken to have: the scenario then fails.
func lacks(s *Scenario, kernel string) string {
	for _, n := range s.Needs {
		if n.Kernel != "" && older(kernel, n.Kernel) {
			return "needs kernel " + n.Kernel
		}
		if n.Config != "" && kernelConfig() != nil && kernelConfig()[n.Config] == "" {
			return "missing CONFIG_" + n.Config
		}
	}
	return ""
}

// locked says whether a kernel is one on which skips are declared.
func locked(kernel string) bool {
	major, minor := majorMinor(kernel)
	return slices.Contains(lockedKernels, fmt.Sprintf("%d.%d", major, minor))
}

// declaredSkips reads the list of skips: scenario, world and kernel.
var declaredSkips = sync.OnceValue(func() [][3]string {
	data, err := embedded.ReadFile("skips")
	if err != nil {
		return nil
	}
	var out [][3]string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) >= 4 && !strings.HasPrefix(f[0], "#") {
			out = append(out, [3]string(f[:3]))
		}
	}
	return out
})

func skipDeclared(s *Scenario, world syntax.World, kernel string) bool {
	major, minor := majorMinor(kernel)
	version := fmt.Sprintf("%d.%d", major, minor)
	return slices.ContainsFunc(declaredSkips(), func(d [3]string) bool {
		named, _ := path.Match(d[0], s.Name) // a bad pattern matches nothing
		return named && (d[1] == "*" || d[1] == string(world)) && d[2] == version
	})
}

// Uses checks whether the datapath uses a feature of the kernel. Kernels that
// are not locked may have it before its release: whoever builds them takes
// over what they like.
func (p *play) Uses(_ context.Context, v *syntax.Uses) error {
	kernel := Kernel()
	got, err := p.world.Datapath("").Uses(v.Feature)
	if err != nil {
		return labError(err)
	}
	major, minor := majorMinor(kernel)
	want := !v.Not && (v.From == "" || !older(kernel, v.From) || slices.Contains(v.Backported, fmt.Sprintf("%d.%d", major, minor)))
	if got == want || got && !v.Not && !locked(kernel) {
		return nil
	}
	words := map[bool]string{true: "in use", false: "not in use"}
	return mismatch("the datapath goes another way than it should on kernel %s", kernel).with(v.Feature, words[want], words[got])
}
