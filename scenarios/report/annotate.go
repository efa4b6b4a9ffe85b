// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/weirnet/weir/scenarios"
)

// Annotate writes a failed result as a GitHub workflow command, which shows it
// beside the line of the scenario's file. Of others it writes nothing.
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
func Annotate(out io.Writer, r scenarios.Result) error {
	if !r.Failed() {
		return nil
	}
	place, problem := "", r.Reason
	if r.Failure != nil {
		file := r.Failure.Pos.File
		if strings.HasPrefix(file, "library/") { // as the binary has it
			file = "scenarios/" + file
		}
		place = fmt.Sprintf("file=%s,line=%d,", annotationValue(file), r.Failure.Pos.Line)
		problem = (&Text{}).Story(r)
	}
	title := fmt.Sprintf("%s: %s in world %s on kernel %s", r.Outcome, r.Scenario, r.World, version(r.Kernel))
	if _, err := fmt.Fprintf(out, "::error %stitle=%s::%s\n", place, annotationValue(title), annotationText(problem)); err != nil {
		return fmt.Errorf("write annotation: %w", err)
	}
	return nil
}

var annotationEscapes = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")

func annotationText(s string) string { return annotationEscapes.Replace(strings.TrimRight(s, "\n")) }

func annotationValue(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(annotationEscapes.Replace(s))
}
