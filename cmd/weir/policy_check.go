// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/model"
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
		Short: "Say whether policies let a pod reach a port, and which rules decide",
		Long: `Say whether policies let a pod reach a port, and which rules decide: of the
sender's egress, and of the target's ingress. Rules are counted from 0.

The exit status is 0 when the flow is allowed, 1 when it is denied, and 2 when
there is no answer, because the objects or the command line are wrong.`,
		Example: `  weir policy check --from tiefighter.default --to deathstar.default --port 80/tcp rule1.yaml
  weir policy check --from shop/cart --to 192.0.2.7 --port 443 manifests/
  weir policy check --from 192.0.2.7 --to node/worker-1 --port 22 manifests/
  weir policy check --from shop/cart --to shop/db --port 5432/tcp --kubeconfig ~/.kube/config new-policy.yaml
  kubectl get pods,ns,netpol -A -o yaml | weir policy check --from a.x --to b.y --port 53/udp -`,
		RunE: func(cmd *cobra.Command, args []string) error { return noAnswerBut(o.run(cmd, args)) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "who opens the flow: POD.NAMESPACE, NAMESPACE/POD, an address, or node/NAME")
	f.StringVar(&o.to, "to", "", "whom it goes to, named alike")
	f.StringVar(&o.port, "port", "", "the target's port: 80/tcp, 53/udp, 9/sctp or icmp")
	f.StringVarP(&o.output, "output", "o", "text", "text, or json (one object)")
	o.objects.addFlag(cmd, "OBJECTS take the place of those of the same name")
	return cmd
}

// noAnswerBut leaves a denial as it is, and makes other errors noAnswer.
func noAnswerBut(err error) error {
	if _, ok := errors.AsType[*exitError](err); ok {
		return err
	}
	return noAnswer(err)
}

func (o *policyCheck) run(cmd *cobra.Command, args []string) error {
	if err := oneOf("output", o.output, "text", "json"); err != nil {
		return err
	}
	if o.from == "" || o.to == "" || o.port == "" || len(args) == 0 && !o.objects.live() {
		return usageError(errors.New("who wants to reach what? Give --from, --to, --port and the objects, or --kubeconfig\nSee 'weir policy check --help'"))
	}
	port, err := parsePolicyPort(o.port)
	if err != nil {
		return err
	}
	objs, err := o.objects.read(cmd, args...)
	if err != nil {
		return err
	}
	from, err := findParty(objs, o.from)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	to, err := findParty(objs, o.to)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if !shareFamily(familiesOf(objs, from), familiesOf(objs, to)) {
		return fmt.Errorf("from %s to %s there is no flow: they have no address of one family: name one by its other address", from, to)
	}
	warnings, err := doubts(objs)
	if err != nil {
		return err
	}
	tellWarnings(cmd.ErrOrStderr(), warnings)
	decision, err := model.Explain(objs, from, to, port.port, port.protocol)
	if err != nil {
		return err
	}
	if err := o.tell(cmd.OutOrStdout(), from, to, port, &decision); err != nil {
		return err
	}
	if !decision.Allowed {
		return &exitError{code: exitFailed}
	}
	return nil
}

// rulingRow is what one side's policies say.
type rulingRow struct {
	Direction string   `json:"direction"`
	Pod       string   `json:"pod"`
	Allowed   bool     `json:"allowed"`
	Audited   bool     `json:"audited,omitempty"` // a denial that is only told, by the policy
	Policy    string   `json:"policy,omitempty"`  // Kind/namespace/name of the rule that decides
	List      string   `json:"list,omitempty"`    // where it is not in spec.ingress or spec.egress
	Rule      *int     `json:"rule,omitempty"`
	PassedBy  string   `json:"passedBy,omitempty"`
	Selecting []string `json:"selecting"`
	Text      string   `json:"text"`
}

func (o *policyCheck) tell(out io.Writer, from, to string, port policyPort, d *model.Decision) error {
	verdict := "denied"
	if d.Allowed {
		verdict = "allowed"
	}
	if o.output == "text" {
		fmt.Fprintf(out, "%s: %s to %s %s\n", verdict, from, to, port)
		for _, line := range d.Story() {
			fmt.Fprintf(out, "  %s\n", line)
		}
		if len(d.Rulings) == 0 {
			fmt.Fprintln(out, "  no policy is asked: a pod always reaches itself, a node its own pods, and others are no pods")
		}
		return nil
	}
	rows := []rulingRow{}
	for _, r := range d.Rulings {
		row := rulingRow{Direction: r.Direction.String(), Pod: r.Subject, Allowed: r.Allowed, Audited: r.Audited, Policy: r.Origin.Policy, List: r.Origin.List, Selecting: append([]string{}, r.Selecting...), Text: r.String()}
		if r.Origin.Policy != "" {
			row.Rule = &r.Origin.Rule
		}
		if r.Passed.Policy != "" {
			row.PassedBy = r.Passed.String()
		}
		rows = append(rows, row)
	}
	err := json.NewEncoder(out).Encode(map[string]any{
		"allowed": d.Allowed, "from": from, "to": to, "port": port.port, "protocol": port.protocol.String(), "rulings": rows,
	})
	if err != nil {
		return fmt.Errorf("write decision: %w", err)
	}
	return nil
}
