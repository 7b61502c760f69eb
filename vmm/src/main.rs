//! try
#![allow(clippy::print_stdout)]
use stalemate::*;
use stalemate::event::*;
struct P;
impl Observer for P { fn begin(&mut self,h:&TraceHeader){println!("{h:x?}");} fn event(&mut self,e:&Event){ if !matches!(e.kind, Kind::TableLinked{..}) {println!("{} {} {:x?}", e.seq, e.rip, e.kind);} } }
fn main() {
    let host = executor::kvm::Host::open("/dev/kvm".as_ref()).unwrap();
    let image = boot::Image::parse(boot::guest_image()).unwrap();
    let sy = boot::Symbols::new(boot::guest_image());
    let config = machine::SessionConfig{ features: arch::features::CpuFeatures{pcid:true,invpcid:false,pge:true,smep:false}, policy: stalemate_shared::boot::Policy::Split, options: 1, model: arch::tlb::TlbModel{fill: if std::env::args().nth(1).is_some(){arch::tlb::Fill::OnDemand}else{arch::tlb::Fill::WorstCase}, structure_caches:true}};
    let t=std::time::Instant::now();
    let s = machine::Session::boot(config,&image,|m| Ok(Box::new(executor::kvm::KvmExecutor::new(&host,m,std::time::Duration::from_secs(10))?)));
    let mut s = match s { Ok(s)=>s, Err(e)=>{ println!("{e}"); if let machine::BootError::Guest{vcpu,..}=&e { println!("{:x?}\n{}", vcpu, sy.locate(vcpu.rip())); } return; } };
    println!("booted {} traps {:?} {:x?}", s.boot_traps, t.elapsed(), s.info());
    use stalemate_shared::step::op::*;
    let u0=stalemate_shared::layout::USER_PAGES; let red=stalemate_shared::layout::COLOUR_FRAMES;
    let st=|op,args,class| machine::StepInput{op,args,class};
    let steps=[st(MAP,[0,u0,red,1],StepClass::Edit), st(USER_READ,[0,u0,0,0],StepClass::Other), st(REMAP,[0,u0,red+4096,1],StepClass::Edit), st(FLUSH_ONE_USER,[0,u0,0,0],StepClass::Flush), st(USER_READ,[0,u0,0,0],StepClass::Other)];
    for faults in [vec![], vec!["drop mark#1".parse().unwrap()]] {
    let t=std::time::Instant::now(); let mut o=oracle::Oracle::default();
    let r=s.run(&steps, inject::Injector::new(&faults, inject::Sites::new(&sy)), &mut o).unwrap();
    println!("{:#?}", o.violations()); for ob in o.obligations(){println!("{} {} {:?} {:?}", ob.tag, ob.page, ob.state, ob.covered.is_some());} println!("{:?}", o.hammers());
    println!("{:?} {:x?} traps {} not fired {:?}", t.elapsed(), r.reports, r.traps, r.not_fired);
    if let Some((w,v))=r.stop { println!("{w} {:x?} {}", v, sy.locate(v.rip())); }
    }
}
