// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"fmt"
	"strings"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Words explains the language of scenarios, from the tables that its parser
// works by.
func Words() string {
	var b strings.Builder
	header, steps := syntax.Help()
	fmt.Fprintln(&b, "The network, before the first step:")
	for _, v := range header {
		fmt.Fprintf(&b, "  %s\n      %s\n", v.Usage, v.Help)
	}
	fmt.Fprintln(&b, "\nSteps. [ipv4] or [ipv6] before a step makes it one of that family, 'eventually' repeats it until it holds:")
	for _, v := range steps {
		fmt.Fprintf(&b, "  %s\n      %s\n", v.Usage, v.Help)
	}
	fmt.Fprintln(&b, "\nLayers of frames. Lengths, checksums and protocol numbers that are not named are made right:")
	for _, k := range frame.Kinds() {
		fmt.Fprintf(&b, "  %s(%s)\n", k.Name, k.FieldNames())
		if k.Help != "" {
			fmt.Fprintf(&b, "      %s\n", k.Help)
		}
	}
	return b.String()
}
