// Package image makes Carillon's container image without a Docker engine: the
// configuration comes from deployments/docker/Dockerfile through BuildKit's own
// translation of it, the files are those that its last stage copies out of the tree that
// deployments/docker/tree makes. It knows that one Dockerfile: what it cannot do, such as
// a RUN in the last stage, it refuses.
package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// builtTree is where the Dockerfile's first stage has deployments/docker/tree put the files.
const builtTree = "/tree"

// Plan is what a Dockerfile makes of a tree.
type Plan struct {
	Config v1.Config
	Copies []Copy
}

// Copy is a file or directory of the tree, and where it comes to lie in the image.
type Copy struct {
	From, To string // absolute, the first within the tree
	Owner    int    // user and group
}

// Args are the build arguments of the Dockerfile.
type Args struct{ Version, Revision string }

// Read reads a Dockerfile.
func Read(ctx context.Context, dockerfile []byte, platform v1.Platform, args Args) (*Plan, error) {
	values := map[string]string{"VERSION": args.Version, "REVISION": args.Revision}
	converted, err := dockerfile2llb.Dockerfile2LLB(ctx, dockerfile, dockerfile2llb.ConvertOpt{
		Config:         dockerui.Config{BuildArgs: values},
		TargetPlatform: &ocispecs.Platform{OS: platform.OS, Architecture: platform.Architecture},
		MetaResolver:   Offline{},
	})
	if err != nil {
		return nil, fmt.Errorf("the Dockerfile: %w", err)
	}
	plan := &Plan{}
	text, err := json.Marshal(converted.Image.Config)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &plan.Config); err != nil {
		return nil, fmt.Errorf("the image's configuration: %w", err)
	}
	plan.Copies, err = copies(dockerfile)
	return plan, err
}

// copies reads what the last stage copies, and refuses what else would make files.
func copies(dockerfile []byte) ([]Copy, error) {
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, err
	}
	if len(stages) != 2 || stages[1].BaseName != "scratch" {
		return nil, errors.New("the Dockerfile is to have two stages, of which the last begins with FROM scratch")
	}
	if !makesTree(stages[0]) {
		return nil, errors.New("the first stage does not run deployments/docker/tree " + builtTree)
	}
	var all []Copy
	for _, command := range stages[1].Commands {
		switch c := command.(type) {
		case *instructions.CopyCommand:
			one, err := copyOf(c, stages[0].Name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c, err)
			}
			all = append(all, one)
		case *instructions.WorkdirCommand:
			if c.Path != "/" {
				return nil, fmt.Errorf("%s: would make a directory", c)
			}
		case *instructions.ArgCommand, *instructions.LabelCommand, *instructions.EnvCommand, *instructions.UserCommand,
			*instructions.ExposeCommand, *instructions.StopSignalCommand, *instructions.HealthCheckCommand,
			*instructions.EntrypointCommand, *instructions.CmdCommand: // configuration
		default:
			return nil, fmt.Errorf("%s is not known here", command.Name())
		}
	}
	return all, nil
}

func makesTree(stage instructions.Stage) bool {
	for _, command := range stage.Commands {
		if run, ok := command.(*instructions.RunCommand); ok && strings.Contains(strings.Join(run.CmdLine, " "), "deployments/docker/tree "+builtTree+" ") {
			return true
		}
	}
	return false
}

func copyOf(c *instructions.CopyCommand, stage string) (Copy, error) {
	if c.From != stage || len(c.SourcePaths) != 1 || len(c.SourceContents) > 0 || c.Link || c.Chmod != "" {
		return Copy{}, errors.New("takes other things than one path of the first stage and an owner")
	}
	from, within := strings.CutPrefix(c.SourcePaths[0], builtTree)
	if !within || path.Clean(from) != from || !path.IsAbs(c.DestPath) || path.Clean(c.DestPath) != c.DestPath {
		return Copy{}, errors.New("is not from " + builtTree + "/… to an absolute path")
	}
	owner := 0
	if c.Chown != "" {
		user, group, _ := strings.Cut(c.Chown, ":")
		var err error
		if owner, err = strconv.Atoi(user); err != nil || group != user {
			return Copy{}, fmt.Errorf("--chown=%s is not a number twice", c.Chown)
		}
	}
	return Copy{From: from, To: c.DestPath, Owner: owner}, nil
}

// Offline answers what BuildKit asks about base images without asking a registry: that
// they are there, and say nothing.
type Offline struct{}

// ResolveImageConfig implements llb.ImageMetaResolver.
func (Offline) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := ocispecs.Image{}
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		config.Platform = *opt.ImageOpt.Platform
	}
	text, err := json.Marshal(config)
	return ref, digest.FromBytes(text), text, err
}
