// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/weirnet/weir/scenarios/shard"
)

// runFile says which part of a whole a report is.
const runFile = "run.json"

// runLine is that among results that are a line each.
type runLine struct {
	Run *shard.Run `json:"run"`
}

// JSONRun writes which part of a whole results are, as a line beside theirs.
func JSONRun(out io.Writer, run *shard.Run) error {
	if err := json.NewEncoder(out).Encode(runLine{run}); err != nil {
		return fmt.Errorf("write which part was run: %w", err)
	}
	return nil
}

// runProperty is that in each suite of a JUnit document.
const runProperty = "weir.run"

func runText(run *shard.Run) string {
	text, err := json.Marshal(run)
	if err != nil {
		panic("report: a run is text, numbers and lists of text: " + err.Error())
	}
	return string(text)
}
