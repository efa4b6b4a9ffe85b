// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Errors of making a scenario.
var (
	// ErrNoEvidence: the action did not fail, or nothing but that is known of it.
	ErrNoEvidence = errors.New("the report has no evidence of it")
	// ErrScenario: the language has no words for what was done, or the network that
	// it was done in cannot be a scenario's.
	ErrScenario = errors.New("not possible in a scenario")
)

// Failed are the actions of a report that a scenario may be made of.
func Failed(report *connectivity.Report) (names []string) {
	for i := range report.Results {
		if report.Results[i].Evidence != nil {
			names = append(names, report.Results[i].Name)
		}
	}
	return names
}

// script is a scenario in the making.
type script struct {
	*cast
	report *connectivity.Report
	result *connectivity.Result
	world  syntax.World
	text   bytes.Buffer
	file   []byte // of objects
}

// objectsFile is what the scenario calls its objects.
const objectsFile = "objects.yaml"

// Scenario makes a scenario file (.txtar) that repeats an action of a report, and wants
// it to end as it had to: sound programs pass it. It is for world prog where the report
// is of Weir, but for what only sockets and stacks do; elsewhere it is for world netns.
//
// It fails with ErrNoEvidence and ErrScenario.
func Scenario(report *connectivity.Report, name string) ([]byte, error) {
	text, err := write(report, name)
	if err != nil {
		return nil, fmt.Errorf("make a scenario of %s: %w", name, err)
	}
	return text, nil
}

func write(report *connectivity.Report, name string) ([]byte, error) {
	at := slices.IndexFunc(report.Results, func(r connectivity.Result) bool { return r.Name == name })
	if at < 0 || report.Results[at].Evidence == nil {
		return nil, ErrNoEvidence
	}
	s := &script{report: report, result: &report.Results[at]}
	var err error
	if s.cast, err = newCast(s.result.Evidence); err != nil {
		return nil, err
	}
	if s.file, err = s.attach(); err != nil {
		return nil, err
	}
	s.world = s.chosen()
	s.head()
	if err := s.steps(); err != nil {
		return nil, err
	}
	if len(s.file) > 0 {
		fmt.Fprintf(&s.text, "\n-- %s --\n%s", objectsFile, s.file)
	}
	if _, err := scenarios.Parse(scenarioName(name), s.text.Bytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrScenario, err)
	}
	return s.text.Bytes(), nil
}

// scenarioName is a file's name for the scenario of an action.
func scenarioName(action string) string { return strings.ReplaceAll(action, "/", "-") + syntax.Suffix }

func (s *script) linef(format string, args ...any) { fmt.Fprintf(&s.text, format+"\n", args...) }

// toService says whether a service's address or port was asked.
func (s *script) toService() bool {
	return !slices.Contains([]connectivity.Kind{connectivity.ToPod, connectivity.ToNode, connectivity.ToOutside, connectivity.ToHostPort}, s.evidence.Action.To.Kind)
}

// bySocket says whether a node's own socket was led to a backend, before there was a
// packet.
func (s *script) bySocket() bool {
	return s.evidence.Ends[0].Kind == connectivity.EndNode && s.toService()
}

// chosen is the world that the scenario is for.
func (s *script) chosen() syntax.World {
	weir := s.report.Features != nil && s.report.Features.Weir
	if !weir || s.bySocket() || s.evidence.Action.Verb == connectivity.Fragments {
		return syntax.Netns
	}
	return syntax.Prog
}

// head says what it is, and the network.
func (s *script) head() {
	s.linef("# %s of 'weir connectivity test' failed.", comment(s.result.Name))
	s.linef("# %s", comment(s.result.What))
	for _, e := range s.result.Errors {
		s.linef("# It said: %s", comment(e))
	}
	s.linef("worlds %s", s.world)
	if s.evidence.Action.Family == connectivity.IPv6 {
		s.linef("families ipv6")
	} else {
		s.linef("families ipv4")
	}
	s.header(s)
	s.linef("uplink")
	s.options()
	if s.bySocket() {
		s.linef("sockets")
	}
	if s.evidence.Action.To.Kind == connectivity.ToLoadBalancer && s.evidence.Ends[0].Kind == connectivity.EndOutside {
		s.linef("route lb(%s) via %s", scenarioService(s.evidence.Service), syntax.FirstNode)
	}
	if s.evidence.Action.Verb == connectivity.ManyICMP { // whose frames are all written
		s.linef("silent %s %s", s.from(), s.name(&s.evidence.Ends[1]))
	}
	s.linef("")
	if len(s.file) > 0 {
		s.linef("apply %s", objectsFile)
	}
}

// comment is a text of one line.
func comment(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// options writes what Weir's agents are told that scenarios have words for.
func (s *script) options() {
	var said struct {
		Masquerade *bool  `json:"masquerade"`
		Return     string `json:"return"`
		Tunnel     string `json:"tunnel"`
		Algorithm  string `json:"algorithm"`
		MaglevSize int    `json:"maglevSize"`
	}
	for _, text := range s.evidence.Config {
		if yaml.Unmarshal([]byte(text), &said) != nil {
			continue // another key's
		}
	}
	if s.outside && s.report.Features.Weir && (said.Masquerade == nil || *said.Masquerade) {
		s.linef("masquerade")
	}
	if slices.Contains([]string{"snat", "dsr", "hybrid"}, said.Return) {
		s.linef("%s", strings.TrimSpace("return "+said.Return+" "+comment(said.Tunnel)))
	}
	if said.Algorithm == "maglev" {
		s.linef("maglev %d", max(said.MaglevSize, 1))
	}
}
