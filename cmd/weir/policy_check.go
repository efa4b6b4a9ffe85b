// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/policy"
)

type policyCheck struct {
	from, to, port string
	output         string
	objects        policyObjects
}

func policyCheckCommand() *cobra.Command {
	var o policyCheck
	cmd := &cobra.Command{
		Use:   "check --from POD --to POD --port PORT [OBJECTS...]",
		Short: "Say whether a pod reaches a port, and which rules decide",
		Long: `Say whether a pod reaches a port, and which rules decide: of the
sender's egress, and of the target's ingress. Rules are counted from 0.

Where both ends have two families, both are asked; what differs is told for
each.

The exit status is 0 when the flow is allowed, 1 when it is denied in a family,
and 2 when there is no answer, because the objects or the command line are
wrong.`,
		Example: `  weir policy check --from tiefighter.default --to deathstar.default \
      --port 80/tcp rule1.yaml
  weir policy check --from shop/cart --to 192.0.2.7 --port 443 manifests/
  weir policy check --from 192.0.2.7 --to node/worker-1 --port 22 manifests/
  weir policy check --from shop/cart --to shop/db --port 5432/tcp \
      --kubeconfig ~/.kube/config new-policy.yaml
  helm template shop ./chart |
      weir policy check --from deploy/cart --to sts/db --port postgres -
  kubectl get pods,ns,netpol -A -o yaml |
      weir policy check --from a.x --to b.y --port 53/udp -`,
		RunE: func(cmd *cobra.Command, args []string) error { return noAnswerBut(o.run(cmd, args)) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "who opens the flow: POD.NAMESPACE, NAMESPACE/POD, an address, node/NAME, or deploy/NAMESPACE/NAME and the like")
	f.StringVar(&o.to, "to", "", "whom it goes to, named alike")
	f.StringVar(&o.port, "port", "", "the target's port: 80/tcp, 53/udp, 9/sctp or icmp, or the name of a container's port")
	f.StringVarP(&o.output, "output", "o", "text", "text, or json (one object)")
	o.objects.addFlag(cmd, "OBJECTS take the place of those of the same name")
	return cmd
}

func (o *policyCheck) run(cmd *cobra.Command, args []string) error {
	if err := oneOf("output", o.output, "text", "json"); err != nil {
		return err
	}
	if o.from == "" || o.to == "" || o.port == "" || len(args) == 0 && !o.objects.live() {
		return usageError(errors.New("who wants to reach what? Give --from, --to, --port and the objects, or --kubeconfig\nSee 'weir policy check --help'"))
	}
	port, err := policy.ParsePort(o.port)
	if err != nil {
		return usageError(err)
	}
	input, err := o.objects.read(cmd, args...)
	if err != nil {
		return err
	}
	objs := input.Objects
	from, err := input.FindParty(o.from)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	to, err := input.FindParty(o.to)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if port, err = policy.PortOf(objs, to, port); err != nil {
		return fmt.Errorf("--port: %w", err)
	}
	warnings, err := policy.Doubts(objs)
	if err != nil {
		return err
	}
	tellWarnings(cmd.ErrOrStderr(), warnings)
	for _, name := range []string{from, to} {
		if len(policy.AddressesOf(objs, name)) == 0 && policy.NamesBlocks(objs) {
			fmt.Fprintf(cmd.ErrOrStderr(), "weir: warning: %s has no address, and no block of addresses holds it: give it status.podIPs\n", name)
		}
	}
	answers, err := policy.Check(objs, from, to, port)
	if err != nil {
		return err
	}
	if err := o.tell(cmd.OutOrStdout(), input.Name(from), input.Name(to), port, answers); err != nil {
		return err
	}
	if !policy.Allowed(answers) {
		return &exitError{code: exitFailed}
	}
	return nil
}

// rulingRow is what one side's policies say.
type rulingRow struct {
	Family    string   `json:"family,omitempty"` // ipv4 or ipv6, where the other one's is another
	Direction string   `json:"direction"`
	Pod       string   `json:"pod"`
	Allowed   bool     `json:"allowed"`
	Audited   bool     `json:"audited,omitempty"` // a denial that is only told, by the policy
	Refused   bool     `json:"refused,omitempty"` // a denial of which the sender is told
	Policy    string   `json:"policy,omitempty"`  // Kind/namespace/name of the rule that decides
	List      string   `json:"list,omitempty"`    // where it is not in spec.ingress or spec.egress
	Rule      *int     `json:"rule,omitempty"`
	PassedBy  string   `json:"passedBy,omitempty"`
	Selecting []string `json:"selecting"`
	Text      string   `json:"text"`
}

func tellDecision(out io.Writer, from, to string, port policy.Port, d *policy.Answer) {
	verdict := "denied"
	if d.Allowed {
		verdict = "allowed"
	}
	if r := d.Denial(); r != nil && r.Action == model.RuleRefuse {
		verdict = "refused"
	}
	if d.Family != "" {
		verdict += " by " + d.Family
	}
	fmt.Fprintf(out, "%s: %s to %s %s\n", verdict, from, to, port)
	for _, line := range d.Story() {
		fmt.Fprintf(out, "  %s\n", line)
	}
	if len(d.Rulings) == 0 {
		fmt.Fprintln(out, "  no policy is asked: a pod always reaches itself, a node its own pods, and others are no pods")
	}
}

func (o *policyCheck) tell(out io.Writer, from, to string, port policy.Port, answers []policy.Answer) error {
	rows := []rulingRow{}
	for i := range answers {
		if o.output == "text" {
			tellDecision(out, from, to, port, &answers[i])
		}
		rows = append(rows, rulingRows(&answers[i])...)
	}
	if o.output == "text" {
		return nil
	}
	err := json.NewEncoder(out).Encode(map[string]any{
		"allowed": policy.Allowed(answers), "from": from, "to": to, "port": port.Number, "protocol": port.Protocol.String(), "rulings": rows,
	})
	if err != nil {
		return fmt.Errorf("write decision: %w", err)
	}
	return nil
}

func rulingRows(d *policy.Answer) []rulingRow {
	var rows []rulingRow
	for _, r := range d.Rulings {
		row := rulingRow{Family: d.Family, Direction: r.Direction.String(), Pod: r.Subject.String(), Allowed: r.Allowed(), Audited: r.Action == model.RuleAudit, Refused: r.Action == model.RuleRefuse, Policy: r.Origin.Policy.String(), List: r.Origin.List, Selecting: []string{}, Text: r.String()}
		for _, policy := range r.Selecting {
			row.Selecting = append(row.Selecting, policy.String())
		}
		if !r.Origin.Policy.IsZero() {
			row.Rule = &r.Origin.Rule
		}
		if !r.Passed.Policy.IsZero() {
			row.PassedBy = r.Passed.String()
		}
		rows = append(rows, row)
	}
	return rows
}
