// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/lab/netns"
)

// census counts what a run could leave behind: what this process holds
// (files by kind, so maps, programs, links and namespaces too, goroutines),
// and what would outlive it (links here, named namespaces, cgroups).
type census map[string]int

func takeCensus() census {
	c := census{"goroutines": runtime.NumGoroutine()}
	fds, err := os.ReadDir("/proc/self/fd")
	if err == nil {
		for _, fd := range fds {
			target, err := os.Readlink("/proc/self/fd/" + fd.Name())
			if err != nil {
				continue // the one that lists them
			}
			kind, _, _ := strings.Cut(target, ":[")
			if strings.HasPrefix(kind, "/") {
				kind = "file"
			}
			c["fd "+kind]++
		}
	}
	c["cgroups"] = netns.Cgroups()
	if links, err := net.Interfaces(); err == nil {
		c["links"] = len(links)
	}
	if names, err := os.ReadDir("/run/netns"); err == nil {
		for _, n := range names {
			if strings.HasPrefix(n.Name(), "weir-") {
				c["named namespaces"]++
			}
		}
	}
	return c
}

// grown lists what there is more of than before.
func (c census) grown(now census) []string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(now)) {
		// The runtime opens its poller once and keeps it.
		if what == "fd anon_inode" || strings.Contains(what, "eventpoll") || strings.Contains(what, "eventfd") {
			continue
		}
		if now[what] > c[what] {
			out = append(out, fmt.Sprintf("%s: %d before, %d after", what, c[what], now[what]))
		}
	}
	return out
}

// left gives what a run left behind. Threads and sockets take a moment to go.
func (c census) left(patience time.Duration) []string {
	deadline := time.Now().Add(patience)
	for {
		began := time.Now()
		grown := c.grown(takeCensus())
		if len(grown) == 0 || time.Now().After(deadline) {
			return grown
		}
		runtime.Gosched()
		// Nothing tells when the kernel is done. To look must not keep it busy.
		time.Sleep(max(5*time.Millisecond, 4*time.Since(began)))
	}
}
