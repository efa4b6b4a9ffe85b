// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os/exec"
)

// Start starts a program in host's network namespace; the caller waits for
// it, and ends it before Close. Pdeathsig must not be set in its attributes:
// the thread that starts the program is gone a moment later, and the kernel
// takes a thread's death for the parent's (prctl(2), PR_SET_PDEATHSIG).
func (w *World) Start(host string, program *exec.Cmd) error {
	h, err := w.host(host)
	if err != nil {
		return fmt.Errorf("start %s: %w", program.Path, err)
	}
	if h.silent {
		return fmt.Errorf("start %s on %s: it is silent, it has no stack", program.Path, host)
	}
	if err := h.ns.run(program.Start); err != nil {
		return fmt.Errorf("start %s on %s: %w", program.Path, host, err)
	}
	return nil
}
