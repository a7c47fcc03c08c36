// Makes the fields of the spawn form depend on each other. The hub validates everything again.
(function () {
  "use strict";
  const box = document.getElementById("farlab-options");
  const offer = JSON.parse(document.getElementById("farlab-offer").textContent);
  const last = JSON.parse(document.getElementById("farlab-last").textContent);
  const field = (name) => box.querySelector(`[name="${name}"]`);
  const systemName = () => box.querySelector('[name="system"]:checked').value;
  const organised = () =>
    offer.organisations[field("vo") ? field("vo").value : Object.keys(offer.organisations)[0]];
  const systems = () => organised().systems;
  const cloud = () => organised().clouds[systemName()];
  const open = (name) => systems()[name] || organised().clouds[name];
  const system = () => systems()[systemName()];
  const defaults = () => organised().defaults[systemName()] || {};
  const partition = () => system().partitions[field("partition").value];

  function fill(select, choices, wanted) {
    const before = wanted || select.value;
    select.replaceChildren(
      ...choices.map(([value, text]) => new Option(text, value, false, value === before))
    );
    select.disabled = choices.length === 0;
  }

  function limit(name, least, most, fallback, text) {
    const input = field(name);
    input.min = least;
    input.max = most;
    const value = Number(input.value);
    if (input.value === "" || value < least || value > most) {
      input.value = Math.min(Math.max(fallback, least), most);
    }
    input.readOnly = least === most;
    document.getElementById(input.getAttribute("aria-describedby")).textContent = text;
  }

  function show(name, wanted) {
    const label = box.querySelector(`[data-when="${name}"]`);
    label.hidden = !wanted;
    field(name).disabled = !wanted;
  }

  function hours(minutes) {
    if (minutes < 60) return `${minutes} min`;
    const rest = minutes % 60;
    return `${Math.floor(minutes / 60)} h${rest ? ` ${rest} min` : ""}`;
  }

  const names = (list) => list.map((name) => [name, name]);

  function reservations(limits) {
    const [account, project, name] = ["account", "project", "partition"].map((each) => field(each).value);
    const own = Object.entries(system().reservations).filter(([, each]) =>
      (each.partitions.length === 0 || each.partitions.includes(name)) &&
      (each.projects.includes(project) || each.accounts.includes(account)));
    return [...limits.reservations, ...own.map(([each]) => each)];
  }

  function resources(fresh) {
    const limits = partition();
    if (fresh) {
      const own = defaults().partition === undefined || defaults().partition === field("partition").value;
      for (const name of ["runtime_minutes", "nodes", "gpus"]) {
        const wanted = own ? defaults()[name] : undefined;
        if (wanted !== undefined) field(name).value = wanted;
        else if (name === "runtime_minutes") field(name).value = "";
      }
    }
    limit("runtime_minutes", limits.min_runtime_minutes, limits.max_runtime_minutes,
      limits.default_runtime_minutes,
      `${limits.min_runtime_minutes} to ${limits.max_runtime_minutes} (${hours(limits.max_runtime_minutes)})`);
    limit("nodes", 1, limits.max_nodes, 1,
      limits.max_nodes === 1 ? "one node" : `1 to ${limits.max_nodes}, ${limits.cores_per_node} ${limits.cores_per_node === 1 ? "core" : "cores"} each`);
    show("gpus", limits.max_gpus > 0);
    const gpus = Math.min(limits.gpus_per_node * Number(field("nodes").value || 1), limits.max_gpus);
    limit("gpus", 0, gpus, 0, `0 to ${gpus}`);
    const reserved = reservations(limits);
    show("reservation", reserved.length > 0);
    fill(field("reservation"), [["", "none"], ...names(reserved)]);
    summary();
  }

  function kind() {
    const onCloud = Boolean(cloud());
    box.querySelectorAll("[data-kind]").forEach((part) => {
      part.hidden = (part.dataset.kind === "cloud") !== onCloud;
      part.querySelectorAll("select").forEach((select) => { select.disabled = part.hidden; });
    });
    show("nodes", !onCloud);
    if (onCloud) for (const name of ["gpus", "reservation"]) show(name, false);
    return onCloud;
  }

  function flavours(wanted, fresh) {
    fill(field("flavour"), Object.entries(cloud().flavours).map(([name, each]) => [name, each.title]), wanted.flavour);
    fill(field("image"), Object.entries(cloud().images), wanted.image);
    flavour(fresh);
  }

  function flavour(fresh) {
    const limits = cloud().flavours[field("flavour").value];
    if (fresh) field("runtime_minutes").value = "";
    document.getElementById("farlab-flavour").textContent =
      `${limits.cpu} ${limits.cpu === 1 ? "core" : "cores"}, ${limits.memory_gib} GiB` +
      `${limits.gpus ? `, ${limits.gpus} ${limits.gpus === 1 ? "GPU" : "GPUs"}` : ""}` +
      `${limits.idle_minutes === null ? "" : `; ends when unused for ${hours(limits.idle_minutes)}`}`;
    limit("runtime_minutes", 1, limits.max_runtime_minutes, limits.max_runtime_minutes,
      `up to ${hours(limits.max_runtime_minutes)}`);
    summary();
  }

  function summary() {
    if (cloud()) {
      box.querySelector(".farlab-summary").textContent =
        `JupyterLab on ${cloud().title}, ${cloud().flavours[field("flavour").value].title}: ` +
        `${hours(Number(field("runtime_minutes").value || 0))}.`;
      return;
    }
    const nodes = Number(field("nodes").value || 1);
    const gpus = field("gpus").disabled ? 0 : Number(field("gpus").value || 0);
    box.querySelector(".farlab-summary").textContent =
      `JupyterLab on ${system().title}, ${partition().title}: ${nodes} ${nodes === 1 ? "node" : "nodes"}` +
      `${gpus ? `, ${gpus} ${gpus === 1 ? "GPU" : "GPUs"}` : ""}, ${hours(Number(field("runtime_minutes").value || 0))}.`;
  }

  function partitions(wanted, fresh) {
    const list = system().accounts[field("account").value][field("project").value];
    fill(field("partition"), list.map((name) => [name, system().partitions[name].title]), wanted);
    resources(fresh);
  }

  function projects(wanted, fresh) {
    fill(field("project"), names(Object.keys(system().accounts[field("account").value])), wanted.project);
    partitions(wanted.partition, fresh);
  }

  function accounts(wanted, fresh) {
    if (kind()) return flavours(wanted, fresh);
    fill(field("account"), names(Object.keys(system().accounts)), wanted.account);
    projects(wanted, fresh);
  }

  function organisation(wanted, fresh) {
    box.querySelectorAll("[data-system]").forEach((label) => {
      label.hidden = !open(label.dataset.system);
      label.querySelector("input").disabled = label.hidden;
    });
    if (!open(systemName())) box.querySelector('[name="system"]:not(:disabled)').checked = true;
    accounts(wanted || defaults(), fresh);
  }

  if (field("vo") && offer.organisations[last.vo]) field("vo").value = last.vo;
  if (open(last.system)) {
    box.querySelectorAll('[name="system"]').forEach((radio) => { radio.checked = radio.value === last.system; });
    for (const name of ["runtime_minutes", "nodes", "gpus"]) {
      if (last[name] !== undefined) field(name).value = last[name];
    }
  }
  const known = Boolean(open(last.system));
  organisation(known ? last : undefined, !known);
  if (!cloud() && last.reservation !== undefined) field("reservation").value = last.reservation;

  box.addEventListener("change", (event) => {
    const name = event.target.name;
    if (name === "vo") organisation(undefined, true);
    else if (name === "system") accounts(defaults(), true);
    else if (name === "account") projects({}, true);
    else if (name === "project") partitions(undefined, true);
    else if (name === "partition") resources(true);
    else if (name === "flavour") flavour(true);
    else if (name === "nodes") resources(false);
    else summary();
  });
})();
