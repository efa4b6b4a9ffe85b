// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Files of a report.
const (
	resultsFile = "results.json"
	outputsFile = "outputs.json"
	costsFile   = "programs.json"
	kernelsFile = "kernels.txt"
	startsFile  = "guests.json"
	summaryFile = "summary.txt"
	junitFile   = "junit.xml"
)

// outputs is a line of outputs.json: what hooks did with a run's frames.
type outputs struct {
	Scenario string             `json:"scenario"`
	World    syntax.World       `json:"world"`
	Kernel   string             `json:"kernel"`
	Outputs  []scenarios.Output `json:"outputs"`
}

func (f *Folder) keepOutputs(r scenarios.Result) error {
	if len(r.Outputs) == 0 {
		return nil
	}
	if err := json.NewEncoder(f.outputs).Encode(outputs{r.Scenario, r.World, r.Kernel, r.Outputs}); err != nil {
		return fmt.Errorf("write outputs of %s: %w", r.Scenario, err)
	}
	return nil
}

// sameOutputs says whether two runs of a scenario did the same to its frames.
func sameOutputs(a, b []scenarios.Output) bool { return firstDifference(a, b) < 0 }

// firstDifference is the index of the first output that differs, or -1.
func firstDifference(a, b []scenarios.Output) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || !sameOutput(a[i], b[i]) {
			return i
		}
	}
	return -1
}

func sameOutput(a, b scenarios.Output) bool {
	return a.Hook == b.Hook && a.Endpoint == b.Endpoint && a.Action == b.Action && a.Reason == b.Reason && bytes.Equal(a.Frame, b.Frame)
}
